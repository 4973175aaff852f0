"""Losses, one value per anchor."""
