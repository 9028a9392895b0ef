"""Rescaling of channels between layers: the model computes the same, and INT8 rounds it with less error."""
