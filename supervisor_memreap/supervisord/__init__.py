"""What supervisord says: its answers and its configuration."""
