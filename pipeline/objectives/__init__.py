"""Losses, one figure a sample."""
