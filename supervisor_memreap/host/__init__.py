"""What this machine says, and the signal."""
