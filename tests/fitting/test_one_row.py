"""A model that takes its batch for a number is fitted where queries of one row are asked."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
import torch
from torch import nn

import edgeprune
from edgeprune.errors import InputError
from edgeprune.measure import Effort
from edgeprune.validating import validate
from tests.support.here import Here

TOLD = "The batch is fixed at one row"


class Counted(nn.Module):
    """The tiny network, with the number of its rows written into the graph."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = len(x)
        return self.net(x).view(rows, -1)


def task(tiny: ModuleType, **changes: Any) -> edgeprune.Task:
    plain = tiny.quick()
    few = list(plain.train)[:6]
    fields = {"calibration": plain.calibration[:2], "train": few, **changes}
    return tiny.quick(**{"model": Counted(plain.model).eval(), **fields})


def fit(task: edgeprune.Task, scripted: ModuleType, tiny: ModuleType, out: Path, **options: Any) -> Any:
    device = scripted.ScriptedDevice(tiny.latency_ms)
    return edgeprune.fit(task, device=device, out=out, max_drop=0.1, epochs=1, **options)


def test_it_is_pruned_trained_quantised_and_its_bundle_validates(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    example = tiny.task().calibration[0][:3]
    result = fit(task(tiny, example=example), scripted, tiny, tmp_path / "run", speedup=2)
    assert result.verdict.kind == "fits"
    assert result.fixed_batch
    (told,) = [sentence for sentence in result.remarks if TOLD in sentence]
    assert "the first of the example's 3" in told
    assert "line" in told
    assert "rows = len(x)" in told
    assert result.chosen.params < result.baseline.params
    assert [rung for rung, *_ in result.chosen.recovered] == ["reconstruct", "statistics", "finetune"]
    assert result.chosen.training[-1].steps > 0, "kept or not, rows were trained on"
    assert result.chosen.layers_int8
    model = onnx.load(tmp_path / "run" / result.chosen.artefact)
    ends = [*model.graph.input, *model.graph.output]
    assert [end.type.tensor_type.shape.dim[0].dim_value for end in ends] == [1, 1]
    with zipfile.ZipFile(result.bundle) as bundle:
        manifest = json.loads(bundle.read("manifest.json"))
    assert (manifest["batch"], manifest["fixed_batch"]) == (1, True)
    served = validate(result.bundle, Here(), effort=Effort(runs=64, seconds=0.1, interleaved=True))
    outcomes = {check.number: check.outcome for check in served.checks}
    assert {number: outcomes[number] for number in (7, 8, 9)} == dict.fromkeys((7, 8, 9), "passed")


def test_it_scores_as_the_same_network_with_a_batch_that_may_vary(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    fixed = fit(task(tiny), scripted, tiny, tmp_path / "fixed", latency_ms=1000)
    free = fit(tiny.quick(), scripted, tiny, tmp_path / "free", latency_ms=1000)
    assert not free.fixed_batch
    assert not any(TOLD in sentence for sentence in free.remarks)
    assert fixed.baseline.metric == free.baseline.metric


def test_several_rows_a_query_are_refused_with_the_line_and_the_batch_that_works(
    tiny: ModuleType, scripted: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(
        InputError, match=r"for a number \(.*test_one_row\.py, line \d+: rows = len"
    ) as caught:
        fit(task(tiny), scripted, tiny, tmp_path / "run", batch=4, speedup=2)
    assert "--batch 1" in caught.value.hint
    assert not (tmp_path / "run").exists()
