"""Trials: candidates that are built, measured, proven and recorded."""
