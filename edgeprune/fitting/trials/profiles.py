"""Profiles of finished trials on the device, layer by layer: evidence for the report, never a condition."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from edgeprune.errors import EdgepruneError
from edgeprune.fitting.trials.runner import Trials
from edgeprune.graph import onnxfile
from edgeprune.latency.layer_profile import layer_milliseconds
from edgeprune.latency.measured import PROFILE_RUNS
from edgeprune.records.trial import LayerTimes
from edgeprune.runtimes import find

_log = logging.getLogger(__name__)


def layer_times(trials: Trials, names: Iterable[str]) -> tuple[LayerTimes, ...]:
    """Milliseconds of the layers of trials, where there is a device, an ONNX file and a runtime that tells.

    Where latency is not limited none is. Each is recorded once. What fails is logged, and its trial left out.
    """
    order = trials.order
    if order.forecast is not None or not trials.budget.timed or find(order.runtime).builds_engine:
        return ()
    found = []
    for name in dict.fromkeys(names):
        if trials.device_side.artefact(name).suffix == ".onnx":
            found.append(trials.once(f"{name}-layers", partial(_profiled, trials, name), LayerTimes))
    return tuple(each for each in found if each.layers)


def _profiled(trials: Trials, name: str) -> LayerTimes:
    """Profile of one trial, its sum scaled to the median of the trial's queries; empty where it fails."""
    side, order = trials.device_side, trials.order
    trials.tell(name, "timing its layers")
    try:
        with order.device.start(replace(side.load(name), profile=True)) as session:
            operators = session.operators(side.feeds(side.rows(order.profile.batch))[0], runs=PROFILE_RUNS)
    except EdgepruneError as error:
        _log.info("%s: its layers are not timed: %s", name, error.what)
        return LayerTimes(name, ())
    shares = layer_milliseconds(onnxfile.load(side.artefact(name)), operators)
    whole = sum(shares.values())
    scale = trials.tested[name].measurement.latency.p50_ms / whole if whole > 0 else 0.0
    return LayerTimes(name, tuple((layer, scale * ms) for layer, ms in shares.items() if scale))
