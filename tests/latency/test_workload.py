"""What is counted of an ONNX file: launches, multiply-accumulates, bytes; against arithmetic done by hand."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, parser

from edgeprune.errors import EdgepruneError
from edgeprune.export import export_onnx
from edgeprune.graph.capture import capture
from edgeprune.graph.cost import count
from edgeprune.graph.coupling import analyse
from edgeprune.latency.workload import read_workload
from edgeprune.records.lengths import stated_lengths
from tests.support.sequences import Encoder, tokens

HEAD = '<ir_version: 9, opset_import: ["" : 20]>\n'


def saved(path: Path, text: str, **weights: tuple[int, ...]) -> Path:
    """A model written as text; `weights` become initialisers of these shapes."""
    model = parser.parse_model(HEAD + text)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in weights.items()
    )
    onnx.save(model, path)
    return path


def test_a_convolution_takes_its_activation_and_the_skip_along(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "block.onnx",
        """block (float[batch, 4, 8, 8] x) => (float[batch, 4, 8, 8] y) {
            a = Conv<pads=[1,1,1,1]>(x, first)
            b = Relu(a)
            c = Conv<pads=[1,1,1,1]>(b, second)
            d = Add(c, x)
            y = Relu(d)
        }""",
        first=(4, 4, 3, 3),
        second=(4, 4, 3, 3),
    )
    workload = read_workload(path, 1)
    image, filters = 4 * 8 * 8 * 4, 4 * 4 * 9 * 4
    assert [kernel.macs for kernel in workload.kernels] == [4 * 64 * 36, 4 * 64 * 36]
    assert [kernel.traffic for kernel in workload.kernels] == [2 * image + filters, 3 * image + filters]
    assert workload.weight_bytes == 2 * filters
    assert workload.activation_bytes == 3 * image  # the input, the first result and the second, at the end


def test_a_depthwise_convolution_multiplies_at_the_rate_of_float32(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "depthwise.onnx",
        """depthwise (float[batch, 4, 8, 8] x) => (float[batch, 4, 8, 8] y) {
            q = QuantizeLinear(x, scale, zero)
            d = DequantizeLinear(q, scale, zero)
            w = DequantizeLinear(filters, scale, zero)
            y = Conv<pads=[1,1,1,1], group=4>(d, w)
        }""",
        scale=(),
    )
    model = onnx.load(path)
    for name, shape in (("filters", (4, 1, 3, 3)), ("zero", ())):
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.int8), name))
    onnx.save(model, path)
    (kernel,) = read_workload(path, 1).kernels
    assert (kernel.macs, kernel.numbers) == (4 * 64 * 9, "float32")
    assert kernel.traffic == 4 * 64 * 1 + 4 * 64 * 4 + 4 * 9 * 1


def test_functions_are_counted_by_the_values_that_they_give(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "functions.onnx",
        """functions (float[batch, 6] x) => (float[batch, 6] y) {
            a = Sigmoid(x)
            b = Mul(a, x)
            y = Softmax(b)
        }""",
    )
    assert sum(kernel.functions for kernel in read_workload(path, 2).kernels) == 2 * 2 * 6


def test_a_batch_multiplies_activations_and_work_but_not_weights(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "linear.onnx",
        "linear (float[batch, 8] x) => (float[batch, 4] y) { y = MatMul(x, weight) }",
        weight=(8, 4),
    )
    one, five = read_workload(path, 1), read_workload(path, 5)
    assert (one.macs, five.macs) == (32, 160)
    assert (one.weight_bytes, five.weight_bytes) == (128, 128)
    assert (one.traffic, five.traffic) == (128 + 48, 128 + 5 * 48)


def test_attention_is_one_launch_that_never_writes_its_products(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "attention.onnx",
        """attention (float[batch, 2, 16, 8] q, float[batch, 2, 8, 16] k, float[batch, 2, 16, 8] v)
            => (float[batch, 2, 16, 8] y) {
            scores = MatMul(q, k)
            scaled = Mul(scores, scale)
            weights = Softmax<axis=-1>(scaled)
            y = MatMul(weights, v)
        }""",
        scale=(1,),
    )
    (kernel,) = read_workload(path, 1).kernels
    assert kernel.macs == 2 * (2 * 16 * 16 * 8)
    assert kernel.traffic == 4 * (2 * 16 * 8 * 4)


def test_a_chain_of_elementwise_operations_is_one_launch_and_a_reshape_none(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "chain.onnx",
        """chain (float[batch, 6] x) => (float[batch, 2, 3] y) {
            a = Sigmoid(x)
            b = Mul(a, x)
            c = Exp(b)
            y = Reshape(c, shape)
        }""",
    )
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 2, 3]), "shape"))
    onnx.save(model, path)
    (kernel,) = read_workload(path, 1).kernels
    assert (kernel.macs, kernel.traffic) == (0, 2 * 6 * 4)


def test_a_table_is_read_row_by_row_and_held_whole(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "lookup.onnx",
        "lookup (int64[batch, 3] ids) => (float[batch, 3, 16] y) { y = Gather(table, ids) }",
        table=(1000, 16),
    )
    workload = read_workload(path, 1)
    assert workload.weight_bytes == 64_000
    assert workload.traffic == 2 * (3 * 16 * 4) + 3 * 8


def test_integers_move_a_quarter_of_the_bytes_and_multiply_as_int8(tmp_path: Path, tiny: ModuleType) -> None:
    from edgeprune.make import Workshop
    from edgeprune.quantize.dialects import TABLE
    from edgeprune.records.trial import Candidate

    workshop = Workshop(tiny.task(), TABLE["onnxruntime-arm"])
    probe = workshop.dense.inputs
    exact, small = (
        read_workload(
            workshop.builder.build(each, workshop.dense, tmp_path / each.precision, probe).artefact, 1
        )
        for each in (Candidate((), "float32"), Candidate((), "int8", "minmax"))
    )
    assert small.macs == exact.macs == workshop.cost.macs({})
    assert {kernel.numbers for kernel in small.kernels if kernel.macs} == {"int8"}
    assert len(small.kernels) == len(exact.kernels)
    assert small.weight_bytes < 0.3 * exact.weight_bytes
    assert small.traffic < 0.35 * exact.traffic


def test_shapes_that_are_computed_from_the_batch_are_folded(tmp_path: Path) -> None:
    class Folding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = torch.nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows, steps, width = x.shape
            heads = self.one(x).view(rows, steps, 2, width // 2).transpose(1, 2)
            mask = torch.ones(rows, 1, steps, steps, dtype=torch.bool).tril()
            scores = (heads @ heads.transpose(2, 3)).masked_fill(~mask, -1e4)
            return (scores.softmax(-1) @ heads).transpose(1, 2).reshape(rows, steps, width)

    captured = capture(Folding().eval(), torch.randn(2, 4, 8))
    workload = read_workload(export_onnx(captured, tmp_path / "folding.onnx"), 1)
    assert workload.macs == count(captured, analyse(captured)).macs({})


def test_work_that_depends_on_the_data_is_refused_by_node(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "found.onnx",
        """found (float[batch, 4] x) => (int64[2, n] y) {
            positive = Greater(x, zero)
            y = NonZero(positive)
        }""",
        zero=(1,),
    )
    with pytest.raises(EdgepruneError, match=r"found.onnx cannot be predicted.*NonZero") as caught:
        read_workload(path, 1)
    assert "--device" in caught.value.hint


def test_a_loop_is_refused_by_node(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Add", ["v", "v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [2]),
        ],
        [
            helper.make_tensor_value_info("d", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["times", "", "x"], ["y"], name="again", body=body)],
        "loop",
        [
            helper.make_tensor_value_info("times", TensorProto.INT64, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    path = tmp_path / "loop.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    with pytest.raises(EdgepruneError, match="again"):
        read_workload(path, 1)


def test_the_work_of_a_length_is_that_of_a_model_of_this_length(tmp_path: Path) -> None:
    model = Encoder().eval()
    example = tokens(2, 16)
    shapes = {name: tuple(tensor.shape) for name, tensor in example.items()}
    varying = capture(model, example, 1, stated_lengths((8, 16), 1, shapes))
    path = export_onnx(varying, tmp_path / "varying.onnx")
    for length in (8, 16):
        fixed = export_onnx(capture(model, tokens(2, length), 1), tmp_path / f"{length}.onnx")
        assert read_workload(path, 1, length).macs == read_workload(fixed, 1).macs
    assert read_workload(path, 1, 16).macs == count(varying, analyse(varying)).macs({})
    with pytest.raises(EdgepruneError, match="cannot be predicted"):
        read_workload(path, 1)
