"""Find or download images and captions, check them, and store them."""
