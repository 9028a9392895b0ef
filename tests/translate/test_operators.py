"""Every translated operator computes what ONNX's own test cases say, or says that it is not translated."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from edgeprune.translate.network import NotTranslated
from edgeprune.translate.operators import TABLE
from edgeprune.translate.operators.as_given import AS_GIVEN
from edgeprune.translate.operators.steps import GATES
from edgeprune.translate.shape_folding import Folded
from edgeprune.translate.weights import network_of

TYPES = frozenset(["float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"])
WEIGHTS = {"Gemm": (1, 2), "MatMul": (1,), **dict.fromkeys(GATES, tuple(range(1, 8)))}
# Of equal values torch.topk takes any; ONNX has no sums of nothing that torch has.
LEFT_OUT = ("same_values", "empty_set", "einsum_scalar")
# ONNX has no case of its own for them in the opset of this release.
WITHOUT_CASES = frozenset(("Upsample", "linear", AS_GIVEN))
# All cases of GRU reset before the product, as torch's layer does not; those of casts are of other types.
WITHOUT_INPUTS = frozenset(("Range", "ConstantOfShape"))  # all are numbers
REFUSED_CASES = frozenset(("GRU", "Cast", "CastLike"))


@cache
def cases() -> Mapping[str, list[Any]]:
    from onnx.backend.test.case.node import collect_testcases

    found: dict[str, list[Any]] = {name: [] for name in TABLE}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, of the cases' own arithmetic
        collected = collect_testcases(None)
    for case in collected:
        nodes = case.model.graph.node if case.model is not None else ()
        if len(nodes) != 1 or nodes[0].domain or nodes[0].op_type not in found:
            continue
        if not any(word in case.name for word in LEFT_OUT) and all(map(is_plain, case.data_sets[0])):
            found[nodes[0].op_type].append(case)
    return found


def is_plain(arrays: Any) -> bool:
    return all(isinstance(each, np.ndarray | np.generic) and each.dtype.name in TYPES for each in arrays)


def computed(case: Any) -> Iterator[tuple[Any, Any]]:
    """(found, wanted) of each output; inputs that are taken as numbers are constants of the file."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    node = model.graph.node[0]
    if node.op_type == "LayerNormalization":  # whose statistics all cases ask for
        del node.output[1:], model.graph.output[1:]
    row = TABLE[node.op_type]
    stored = row.plain | row.known | set(WEIGHTS.get(node.op_type, ()))
    given = dict(zip([value.name for value in model.graph.input], case.data_sets[0][0], strict=False))
    constants = {
        name: np.asarray(given[name]) for at, name in enumerate(node.input) if name in given and at in stored
    }
    for value in list(model.graph.input):
        if value.name in constants:
            model.graph.input.remove(value)
    network = network_of(model, Folded((node,), constants, {}))
    inputs = [torch.tensor(np.asarray(given[value.name])) for value in model.graph.input]
    with torch.no_grad():
        values = network.values(*(inputs or [torch.zeros(1)])) if inputs else {}
    for value, wanted in zip(model.graph.output, case.data_sets[0][1], strict=False):
        if value.name in values:
            yield values[value.name].numpy(), np.asarray(wanted)


@pytest.mark.parametrize("name", sorted(TABLE.keys() - WITHOUT_CASES))
def test_an_operator_computes_what_the_cases_of_onnx_say(name: str) -> None:
    translated = 0
    for case in cases()[name]:
        try:
            pairs = list(computed(case))
        except NotTranslated:
            continue
        for found, wanted in pairs:
            assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape), case.name
            np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5, err_msg=case.name)
            translated += 1
    assert (translated > 0) == (name not in REFUSED_CASES | WITHOUT_INPUTS)
