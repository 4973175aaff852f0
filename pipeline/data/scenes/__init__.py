"""Generated pictures whose captions are predicates: every truth is known."""
