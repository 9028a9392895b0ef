"""Models whose sequences have several lengths go from a fit to a bundle that is checked at each of them."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

import edgeprune
from edgeprune.bundle import open_bundle
from edgeprune.bundle.golden import RowLengths, check_ports, read_golden, write_golden
from edgeprune.bundle.manifest import check_limits
from edgeprune.devices import Load
from edgeprune.errors import InputError
from edgeprune.measure import Effort
from edgeprune.report.document import document
from edgeprune.report.table import verdict_lines
from edgeprune.validating import validate
from tests.support import scripted
from tests.support.here import Here
from tests.support.roads import weights_ms
from tests.support.sequences import LENGTHS, Encoder, bert, classifier, tokens

pytest.importorskip("openvino")


class Timed(scripted.ScriptedDevice):
    """A scripted device on which every query takes longer where its sequences are longer."""

    def start(self, load: Load, *, sensors: Any = ()) -> Any:
        session = super().start(load, sensors=sensors)
        plain = session.time

        def time(feeds: Any, *, runs: int, seconds: float) -> Any:
            share = feeds["ids"].shape[1] / max(LENGTHS) if "ids" in feeds else 1.0
            self.latency_ms = lambda artefact: share * weights_ms(artefact)
            return plain(feeds, runs=runs, seconds=seconds)

        session.time = time  # type: ignore[method-assign]
        return session


def fit(task: edgeprune.Task, out: Path, **options: Any) -> Any:
    asked = {"device": Timed(weights_ms), "max_drop": 0.3, "epochs": 1, "speedup": 2, **options}
    return edgeprune.fit(task, out=out, **asked)


@pytest.mark.parametrize(
    ("make", "runtime"),
    [pytest.param(Encoder, "onnxruntime", id="an encoder"), pytest.param(bert, "openvino", id="a BERT")],
)
def test_a_fit_ends_in_a_bundle_that_is_checked_at_each_length(
    make: Callable[[], nn.Module], runtime: str, tmp_path: Path
) -> None:
    result = fit(classifier(make()), tmp_path / "run", runtime=runtime)
    assert result.verdict.kind == "fits"
    assert result.chosen.params < result.baseline.params, "it was pruned"
    assert result.chosen.layers_int8
    (told,) = [remark for remark in result.remarks if "8 and 16 long" in remark]
    assert "those of 16" in told
    assert result.lengths == LENGTHS
    with open_bundle(result.bundle) as bundle:
        golden, manifest = bundle.golden, bundle.manifest
    assert manifest.lengths == LENGTHS
    assert [(port.name, port.shape, port.length_dims) for port in manifest.inputs] == [
        ("ids", (1, 16), (1,)),
        ("mask", (1, 16), (1,)),
    ]
    assert [feed["ids"].shape[1] for feed in golden.feeds(1)] == [16] * 16 + [8] * 16
    assert {feed["ids"].shape[1] for feed in golden.feeds(1, longest=True)} == {16}
    served = validate(result.bundle, Here(), effort=Effort(runs=64, seconds=0.1, interleaved=True))
    outcomes = {check.number: check.outcome for check in served.checks}
    assert {number: outcomes[number] for number in (7, 8, 9)} == dict.fromkeys((7, 8, 9), "passed")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A fit that answers with the dense model: its latency is not limited by much."""
    return fit(
        classifier(Encoder()),
        tmp_path_factory.mktemp("lengths") / "run",
        speedup=None,
        latency_ms=1000,
    )


def test_the_budget_is_about_the_longest_and_the_others_are_told(fitted: Any) -> None:
    dense = fitted.baseline.measurement.latency.p50_ms
    timed = {(each.name, each.length): each.latency.p50_ms for each in fitted.at_lengths}
    assert timed["dense", 8] == pytest.approx(dense / 2)
    lines = verdict_lines(fitted)
    assert any(line.strip().startswith("at length 8: p50") for line in lines)
    assert any("batch 1, length 16 (also served: 8)" in line for line in lines)
    told = document(fitted)
    assert told["lengths"] == [8, 16]
    assert [(each["name"], each["length"]) for each in told["at_lengths"]] == list(timed)


def test_a_bundle_says_its_lengths_and_its_runner_serves_each(fitted: Any, tmp_path: Path) -> None:
    with zipfile.ZipFile(fitted.bundle) as bundle:
        bundle.extractall(tmp_path)
    card = (tmp_path / "README.md").read_text("utf-8")
    assert "batch 1, length 16 (also proven to compute the same at 8)" in card
    assert "| ids | int64 | 1x<=16 |" in card
    assert "Pad a query to the shortest of the lengths 8, 16 that holds it" in card
    assert "| latency p90 at length 8, ms |" in card
    line = [*(sys.executable, "-B", "run.py"), "--artefact", "model.onnx", "--golden", "golden.npz"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["ok"]
    arrays = dict(np.load(tmp_path / "golden.npz"))
    assert arrays["length"].tolist() == [16] * 16 + [8] * 16
    arrays["length"][:] = 16  # the padding of short rows counts, then
    np.savez(tmp_path / "golden.npz", **arrays)
    again = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert json.loads(again.stdout)["ok"], "a mask hides it"
    arrays["in.mask"][:] = 1
    np.savez(tmp_path / "golden.npz", **arrays)
    wrong = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert not json.loads(wrong.stdout)["ok"]


def test_a_length_that_calibration_lacks_is_told(tmp_path: Path) -> None:
    task = classifier(Encoder(), calibration=[tokens(32, 8, seed=seed) for seed in range(3)])
    result = fit(task, tmp_path / "run", speedup=None, latency_ms=1000)
    assert any("no sequences of length 16" in remark for remark in result.remarks)


class Tagger(nn.Module):
    """Three class scores of each token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 12), nn.Linear(12, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.head(self.embed(ids) * mask[..., None].float())


def test_what_is_not_served_at_several_lengths_is_refused(tmp_path: Path) -> None:
    task = classifier(Encoder())
    with pytest.raises(InputError, match="without a device there is no prediction for several"):
        edgeprune.fit(task, target="arm", out=tmp_path / "run")
    with pytest.raises(InputError, match=r"output .* is as long as the sequence"):
        fit(replace(task, model=Tagger().eval()), tmp_path / "run")
    batch = tokens(4, 11)
    with pytest.raises(
        InputError, match=r"Calibration batch 1 has .* none of the lengths 8 and 16"
    ) as caught:
        fit(replace(task, calibration=[batch]), tmp_path / "run")
    assert "Pad each batch" in caught.value.hint
    with pytest.raises(InputError, match=r"Training batch 1 has .* none of the lengths"):
        fit(replace(task, train=[(batch, None)]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_golden_vectors_of_other_lengths_are_refused(fitted: Any, tmp_path: Path) -> None:
    with open_bundle(fitted.bundle) as bundle:
        golden, manifest = bundle.golden, bundle.manifest
    assert golden.lengths is not None
    with pytest.raises(InputError, match=r"has the lengths \[8, 16\], the manifest says \[4, 16\]"):
        check_ports(golden, manifest.inputs, manifest.outputs, 1, (4, 16))
    mixed = RowLengths(np.array([16, 8] * 16), golden.lengths.dims)
    inputs, outputs = (
        tuple(replace(port, shape=(2, *port.shape[1:])) for port in ports)
        for ports in (manifest.inputs, manifest.outputs)
    )
    with pytest.raises(InputError, match="a batch of several lengths"):
        check_ports(replace(golden, lengths=mixed), inputs, outputs, 2, LENGTHS)
    short = RowLengths(np.full(golden.rows, 9, np.int64), golden.lengths.dims)
    place = write_golden(tmp_path / "golden.npz", golden.inputs, golden.outputs, lengths=short)
    with pytest.raises(InputError, match="ids is not padded to the longest"):
        read_golden(place)


def test_lengths_of_a_manifest_that_cannot_be_are_refused(fitted: Any) -> None:
    with open_bundle(fitted.bundle) as bundle:
        manifest = bundle.manifest
    check_limits(manifest)
    (ids, mask), plain = manifest.inputs, tuple(replace(port, length_dims=()) for port in manifest.inputs)
    for changes, sentence in (
        ({"lengths": (16, 8)}, "expected two or more that ascend"),
        ({"lengths": (16,)}, "expected two or more"),
        ({"lengths": (1, 16)}, "lengths is 1"),
        ({"lengths": ()}, "do not say of which dimensions"),
        ({"inputs": plain}, "do not say of which dimensions"),
        ({"inputs": (replace(ids, length_dims=(2,)), mask)}, r"inputs\[0\].length_dims has 2"),
        ({"inputs": (ids, replace(mask, shape=(1, 8)))}, r"inputs\[1\].length_dims has 1"),
        ({"outputs": tuple(replace(p, length_dims=(1,)) for p in manifest.outputs)}, "an output has"),
    ):
        with pytest.raises(InputError, match=sentence):
            check_limits(replace(manifest, **changes))  # type: ignore[arg-type]
