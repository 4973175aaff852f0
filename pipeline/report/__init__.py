"""The report: page, lists and tables."""
