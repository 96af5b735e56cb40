"""What is told and kept."""
