"""INT8 layers that an engine runs in float, as the device or a build on this host tells."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from edgeprune.errors import LostInt8
from edgeprune.fitting.order import Order, served
from edgeprune.graph import onnxfile
from edgeprune.quantize.tensorrt.engines import lost_in_engine
from edgeprune.quantize.tensorrt.refusals import check_types
from edgeprune.runtimes import find


def lost_in(order: Order) -> Callable[[Path], Iterable[str]] | None:
    """Question for `make.Workshop`: the layers lost in an artefact; None for a runtime that builds no
    engines.

    A device builds the engine as it loads the artefact, checks it layer by layer, and keeps it, so that the
    measurement behind it finds it there. One whose layers cannot be read raises `DeviceError`.
    """
    if order.forecast is not None and order.forecast.capability is not None:
        return lost_in_engine(order.forecast.capability, order.profile.batch)
    if not find(order.runtime).builds_engine:
        return None

    def ask(artefact: Path) -> tuple[str, ...]:
        check_types(onnxfile.load(artefact), artefact.name)
        try:
            with order.device.start(served(order, artefact)):
                return ()
        except LostInt8 as error:
            return error.layers

    return ask
