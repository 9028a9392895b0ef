"""The search space of one fit: its decisions, what they cost and what they are worth."""
