"""Accuracy at equal measured latency, ours beside a peer's: see `python -m benchmarks.accuracy --help`."""
