"""Generated pictures whose captions are predicates, so that every match is known."""
