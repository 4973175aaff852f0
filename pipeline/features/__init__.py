"""Features of images and captions: made once before training, and read in training."""
