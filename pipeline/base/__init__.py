"""The towers that every experiment starts from."""
