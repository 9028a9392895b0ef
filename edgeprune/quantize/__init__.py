"""INT8 quantisation of an exported model: calibration of ranges, placement of Q/DQ pairs, emission.

    calibrate.py   captured graph + data -> `Ranges`, with neural-compressor's observers (TABLE: calibrators)
    dialects.py    operators and types that each runtime turns into integer kernels (TABLE: dialects)
    plan.py        float ONNX + ranges + dialect -> which values become integers
    scales.py      ranges and weights -> scales, zero points, integers
    emit.py        carries out the plan: `quantise(exported, ranges, dialect) -> Quantised`
    dynamic.py     INT8 products whose activations get their range from each query
    weight_only.py products whose weights alone are integers; weight_blocks.py rounds the weights
    products.py    the products that dynamic.py and weight_only.py can rewrite
    half.py        float16 for TensorRT
    rescale/       rescaling of channels between layers, so that rounding costs less
    simulate/      the INT8 model in torch: for proofs, bias correction, training
    tensorrt/      checks of TensorRT's own rules: refused nodes, layers that an engine runs in float

To add a calibrator or a dialect, add a row to its table; the tests are parametrised over both tables.
"""
