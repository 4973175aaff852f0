"""Images, captions and splits. Imports no model."""
