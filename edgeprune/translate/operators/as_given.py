"""Operators that are called as their file has them."""

from __future__ import annotations

from torch import Tensor

from edgeprune.graph.onnx_operator import kept_operator
from edgeprune.translate.calls import Call, operator

AS_GIVEN = "edgeprune.kept"  # no name of an ONNX operator


@operator(AS_GIVEN)
def kept(call: Call, batch: list[int], *inputs: Tensor) -> tuple[Tensor, ...]:
    """Call of an operator as it is.

    batch: rows of a query. inputs: the values that the operator reads, each once.
    """
    return tuple(kept_operator(list(inputs), batch[0], call.attributes[AS_GIVEN]))
