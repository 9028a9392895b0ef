"""INT8 beside the runtimes' own quantisers: latency in one interleaved run, and accuracy on CIFAR-10."""
