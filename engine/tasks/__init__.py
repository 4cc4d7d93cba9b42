"""What makes a loss out of weights."""
