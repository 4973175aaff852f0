"""One Click command per DVC stage."""
