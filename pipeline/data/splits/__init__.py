"""Train, val and test splits of images and captions, noise, and labels beyond the pairs."""
