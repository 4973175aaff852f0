"""Which candidates are negatives, and their weights."""
