"""What is logged, published and kept."""
