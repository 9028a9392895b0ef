"""Fixed cost of an operator: milliseconds that one more of the smallest operators takes in a query.

A model of one matrix product of eight numbers and one of many are timed in turn on the device. What the
longer one takes more is what the runtime takes for an operator, whatever it computes.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeprune.devices import Device, Load
from edgeprune.files import scratch
from edgeprune.graph import onnxfile
from edgeprune.latency.measured import quick_ms

_NUMBERS = 8
_FEW, _MOST = 1, 65  # products
_IN_TURN = 4  # times that both models are timed


def operator_ms(device: Device, load: Load) -> float | None:
    """Milliseconds of one more operator; None when the machine was too restless to tell.

    load: how artefacts are served; its own artefact is not used. Raises `DeviceError` when the device fails.
    """
    feeds = {"input": np.ones((1, _NUMBERS), np.float32)}
    with scratch() as folder:
        loads = [replace(load, artefact=_products(count, folder), profile=False) for count in (_FEW, _MOST)]
        with device.start(loads[0]) as few, device.start(loads[1]) as many:
            times = [(quick_ms(few, feeds), quick_ms(many, feeds)) for _ in range(_IN_TURN)]
    short = [one for one, _ in times if one is not None]
    long = [other for _, other in times if other is not None]
    if not short or not long or min(long) <= min(short):
        return None
    return (min(long) - min(short)) / (_MOST - _FEW)


def _products(count: int, folder: Path) -> Path:
    """ONNX file of so many matrix products, one behind the other."""
    shape = [1, _NUMBERS]
    names = ["input", *(f"value_{at}" for at in range(count - 1)), "output"]
    nodes = [
        helper.make_node("MatMul", [before, "weight"], [after], name=f"product_{at}")
        for at, (before, after) in enumerate(pairwise(names))
    ]
    kind = onnx.TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, kind, shape) for name in (names[0], names[-1])]
    weight = numpy_helper.from_array(np.eye(_NUMBERS, dtype=np.float32), "weight")
    graph = helper.make_graph(nodes, "products", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnxfile.save(model, folder / f"products_{count}.onnx")
