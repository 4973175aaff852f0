"""What it costs and what it brings, each figure with the command that made it."""
