"""The search space of one fit: its decisions, what they cost and their values."""
