"""NPC's memory bank: which training pairs are clean, and which clean pairs stand for each."""
