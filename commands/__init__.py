"""Commands that are no stage of the pipeline: `python -m commands.compare --help`."""
