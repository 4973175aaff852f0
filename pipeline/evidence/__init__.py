"""What frozen encoders and sibling captions say of pairs before training: alignment, agreement, trust, posterior."""
