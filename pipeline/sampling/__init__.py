"""Which negatives, and with what weight."""
