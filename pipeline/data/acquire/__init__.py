"""Where images and captions come from: fetched or found, checked, kept."""
