"""NPC's memory bank: which training pairs are clean, and the clean pairs (entries) of each pair."""
