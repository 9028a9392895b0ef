"""TensorRT's own rules for INT8: what its parser refuses, what its engine keeps."""
