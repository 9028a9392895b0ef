"""Lengths of sequences in a fit: what is served at several, what is refused, and what is told."""

from __future__ import annotations

from edgeprune.errors import InputError
from edgeprune.fitting.order import Order
from edgeprune.graph.outputs import check_lengths_apart
from edgeprune.make import Workshop
from edgeprune.runtimes import find

_ONE_LENGTH = "Leave lengths out, and pad all sequences to one."


def check_lengths(order: Order, workshop: Workshop) -> None:
    """Refuse lengths that vary where they cannot be served, or are not measured. Raises `InputError`."""
    if workshop.lengths is None:
        return
    if find(order.runtime).builds_engine:
        raise InputError(
            f"The lengths {workshop.lengths.told} are asked for, and {order.runtime} serves one length.",
            f"{_ONE_LENGTH[:-1]}, or serve with onnxruntime or openvino.",
        )
    if order.forecast is not None:
        raise InputError(
            f"The lengths {workshop.lengths.told} are asked for, and without a device there is no prediction "
            "for several.",
            f"Give --device, or a profile of this machine. {_ONE_LENGTH}",
        )
    check_lengths_apart(workshop.dense)


def told_lengths(workshop: Workshop) -> list[str]:
    """Sentence about which length the figures are of."""
    if workshop.lengths is None:
        return []
    return [
        f"Sequences are {workshop.lengths.told} long: latency, memory and work are those of "
        f"{workshop.lengths.longest}, and so is the budget; the other latencies are told beside it."
    ]
