"""Frozen dataclasses that flow between the rooms. Standard library only."""
