"""INT8: calibration says what ranges activations have, a dialect says where a runtime wants integers.

    calibrate.py   captured graph + data -> `Ranges`, with neural-compressor's observers (TABLE: calibrators)
    dialects.py    what each runtime turns into integer kernels (TABLE: dialects)
    plan.py        float ONNX + ranges + dialect -> which values become integers
    scales.py      ranges and weights -> scales, zero points, integers
    emit.py        writes the plan: `quantise(float_onnx, ranges, dialect, path) -> Quantised`
    dynamic.py     INT8 products whose activations get their range from each query
    weight_only.py products whose weights alone are integers; weight_blocks.py rounds them
    products.py    the products that these two can take
    half.py        float16 for TensorRT
    rescale/       channels made alike before they are rounded
    simulate/      the INT8 model in torch: for proofs, bias correction, training
    tensorrt/      what TensorRT's parser refuses and what its engine keeps in INT8

To add a calibrator or a dialect, add a row to its table; the tests are parametrised over both.
"""
