"""What is computed of images and captions before training, and how a training reads it."""
