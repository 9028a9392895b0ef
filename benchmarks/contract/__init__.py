"""The budget contract, case by case: see `python -m benchmarks.contract --help`."""
