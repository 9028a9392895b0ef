"""Models of five kinds go from a fit to a bundle that validates, on both runtimes that compute here."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import edgeprune
from edgeprune.measure import Effort
from edgeprune.validating import validate
from tests.support import scripted
from tests.support.here import Here
from tests.support.roads import ROADS, weights_ms

pytest.importorskip("openvino")
task_of = cache(lambda name: ROADS[name]())
# Of the metric, by which pruning to half of the time and one epoch of training may move it.
MOST_LOST = {
    "a forecaster": 0.02,
    "a detector": 0.005,
    "a U-Net": 0.1,
    "a language model": 0.4,
    "a masked encoder": 0.1,
}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", ROADS)
def test_a_fit_ends_in_a_bundle_that_validates(name: str, runtime: str, tmp_path: Path) -> None:
    # Any INT8 form is as good on this subset: the first one is built, and no other.
    task = replace(task_of(name), evaluate_subset=lambda predict: 0.5)
    device = scripted.ScriptedDevice(weights_ms)
    told: list[str] = []

    def listen(event: Any) -> None:
        told.extend([event.doing] if event.lasting else [])

    result = edgeprune.fit(
        task,
        runtime=runtime,
        speedup=2,
        max_drop=MOST_LOST[name],
        epochs=1,
        device=device,
        out=tmp_path / "run",
        listen=listen,
    )
    assert result.verdict.kind == "fits", told
    assert result.chosen.params < result.baseline.params, "it was pruned"
    assert any(rung == "finetune" for rung, *_ in result.chosen.recovered), "it was trained"
    assert result.bundle is not None
    validation = validate(result.bundle, device)
    assert validation.verdict is not None
    assert validation.verdict.kind == "fits"
    served = validate(result.bundle, Here(), effort=Effort(runs=64, seconds=0.1, interleaved=True))
    outcomes = {check.number: check.outcome for check in served.checks}
    assert {number: outcomes[number] for number in (7, 8, 9)} == dict.fromkeys((7, 8, 9), "passed")
