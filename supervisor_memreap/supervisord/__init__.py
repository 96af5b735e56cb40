"""supervisord: its answers and its configuration."""
