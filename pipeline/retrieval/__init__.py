"""Ranks, recalls and graded relevance."""
