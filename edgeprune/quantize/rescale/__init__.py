"""Rescaling of channels between layers, which changes no output and helps INT8."""
