"""Operations that torch.export may leave: every one is followed, or is on a list of those that freeze."""

from __future__ import annotations

import torch

from edgeprune.graph.rulebook import RULES
from edgeprune.graph.size_rewrites import REWRITES

# Core operations without a rule, and why: whatever they touch is frozen.
FREEZE = {
    "as_strided": "reads memory, whatever its shape",
    "resize_": "reads memory, whatever its shape",
    "nonzero": "how many there are depends on the values",
    "masked_scatter": "which positions are written to depends on the values",
    "index_put": "positions are written to by several indices",
    "_embedding_bag": "bags of rows, their offsets and their counts",
    "_pdist_forward": "distances of rows as one vector, without a batch",
    "_native_batch_norm_legit": "statistics of the batch at hand",
    "native_dropout": "noise",
    "native_group_norm": "carries the number of channels",
}


def followed(name: str) -> bool:
    """Whether an operation has a rule, works position by position, or is written out by its definition."""
    if f"aten.{name}" in RULES:
        return True
    packet = getattr(torch.ops.aten, name)
    overloads = [getattr(packet, overload) for overload in packet.overloads()]
    steady = [each for each in overloads if torch.Tag.nondeterministic_seeded not in each.tags]
    return any(torch.Tag.pointwise in each.tags for each in steady)


def core() -> set[str]:
    """Names of PyTorch's core operations that compute a tensor from tensors."""
    found = set()
    for schema in torch._C._jit_get_all_schemas():
        space, _, name = schema.name.partition("::")
        packet = getattr(torch.ops.aten, name, None) if space == "aten" else None
        if packet is None or "backward" in name:
            continue
        overload = getattr(packet, schema.overload_name or "default", None)
        reads = any("Tensor" in str(argument.type) for argument in schema.arguments)
        makes = any("Tensor" in str(result.type) for result in schema.returns)
        if overload is not None and torch.Tag.core in overload.tags and reads and makes:
            found.add(name)
    return found


def test_every_core_operation_is_followed_or_known_to_freeze() -> None:
    assert len(core()) > 100
    assert {name for name in core() if not followed(name)} == set(FREEZE)


def test_every_rewrite_belongs_to_an_operation_that_has_a_rule() -> None:
    assert set(REWRITES) <= set(RULES)
