"""`python -m benchmarks.prediction`: latency predicted from the table against latency measured."""
