"""Evidence about pairs from frozen encoders and sibling captions, before training: alignment, trust, posterior."""
