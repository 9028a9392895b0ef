"""Checks of INT8 for TensorRT: nodes that the parser refuses, layers that the engine runs in float."""
