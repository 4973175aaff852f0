"""Read published files from outside without running code in them."""
