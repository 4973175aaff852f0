"""FNE: false negative elimination for image-text matching, as an experiment pipeline."""
