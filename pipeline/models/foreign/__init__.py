"""Files that others published, read without running anything in them."""
