"""Towers, heads, the momentum model and the memory."""
