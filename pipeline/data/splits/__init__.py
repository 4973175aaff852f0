"""Which caption belongs to which image, in train, val and test, and what is known of the truth."""
