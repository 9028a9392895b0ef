"""Latency by layer and end to end: measured on a device, predicted without one.

Measured, for the latency table of a fit:

    operators.py    operators of a runtime's profile -> nodes of the float ONNX graph
    curves.py       rows of milliseconds by width -> a curve per operator (`LatencyTable`)
    measured.py     device + resized models -> table; table + widths -> milliseconds (`Prediction`)
    cache.py        tables on disk, for the next fit

Measured, for the report:

    layer_profile.py  a runtime's profile of an artefact -> milliseconds and work of each layer
    operator_cost.py  milliseconds that a runtime takes for an operator, whatever it computes

Measured, for the layers that stay float because INT8 is no quicker there:

    layers.py       profiles of both precisions -> milliseconds of every layer in either
    min_cut.py      these and the costs of conversions -> the float layers of the least time
    float_layers.py the two in turn, then end to end on the device (`Mixing.quickest`)

Predicted, where no device is attached:

    onnx_shapes.py  ONNX file + batch -> shapes and multiply-accumulates
    workload.py     -> launches as runtimes fuse them; kernel.py has the records
    roofline.py     launches + a profile's figures -> milliseconds and MiB
    forecast.py     -> the `Measurement` of a trial
"""
