"""A criterion is one function and one row: a toy criterion is offered, documented, and prunes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured, capture
from edgeprune.graph.coupling import Coupling, Group, analyse
from edgeprune.pruning import criteria, importance, unlabelled
from edgeprune.pruning.criteria import Criterion, Evidence, Scores, Slopes
from edgeprune.pruning.grams import grams
from edgeprune.pruning.once import prune

LOUDEST = 3  # unit of `network` whose activations are large and whose weights are like the others'


def quiet(evidence: Evidence, group: Group) -> Scores:
    """Loudness turned around: keeps units whose activations are small."""
    for axis in group.axes:
        if axis.parameter in evidence.grams:
            power = evidence.grams[axis.parameter].diagonal().numpy()
            return (1 / (1e-9 + power[axis.positions].sum(axis=1))).astype(np.float32)
    return np.ones(group.units, np.float32)


TOY = Criterion("quiet", quiet, "Units whose activations are small.", frozenset({"grams"}))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model[0].bias.zero_()[LOUDEST] = 50.0
    return model


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(16, 4, generator=generator) for _ in range(3)]


def analysed() -> tuple[Captured, Coupling]:
    captured = capture(network(), torch.randn(2, 4))
    return captured, analyse(captured)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Criterion:
    monkeypatch.setitem(criteria.TABLE, TOY.name, TOY)  # type: ignore[arg-type]
    return TOY


@pytest.mark.parametrize("verb", ["fit", "prune"])
def test_a_toy_criterion_is_offered_by_the_command_line(
    verb: str, toy: Criterion, doors: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "random, quiet." in doors.help_of(verb, monkeypatch)


@pytest.mark.parametrize("given", ["quiet", TOY], ids=["by name", "as an object"])
def test_a_toy_criterion_prunes(given: str | Criterion, toy: Criterion) -> None:
    found = prune(network(), torch.randn(2, 4), 0.4, given, batches())
    assert LOUDEST not in found.kept["0"]
    loud = prune(network(), torch.randn(2, 4), 0.4, "wanda", batches())
    assert LOUDEST in loud.kept["0"]


def test_an_object_needs_no_row() -> None:
    found = prune(network(), torch.randn(2, 4), 0.4, TOY, batches())
    assert LOUDEST not in found.kept["0"]


def test_an_unknown_criterion_is_refused_with_every_row(toy: Criterion) -> None:
    with pytest.raises(InputError, match="no criterion 'loud'") as refused:
        criteria.find_criterion("loud")
    assert refused.value.hint.endswith("random, quiet.")


def test_the_document_tells_every_criterion(doors: ModuleType) -> None:
    assert doors.undocumented(_columns()) == []
    assert doors.documented("Criteria") == list(criteria.TABLE)


def test_a_toy_criterion_is_missed_in_the_document(toy: Criterion, doors: ModuleType) -> None:
    assert doors.undocumented(_columns()) == [
        "| `quiet` | Gram matrices | Units whose activations are small. |"
    ]


NEEDS = {"gradients": "gradients", "samples": "single samples", "labels": "labels", "grams": "Gram matrices"}


def _columns() -> list[tuple[str, ...]]:
    return [
        (row.name, ", ".join(NEEDS[need] for need in sorted(row.needs)) or "weights", row.says)
        for row in criteria.TABLE.values()
    ]


# What a row promises -----------------------------------------------------------------------------------


def test_nothing_is_measured_that_nobody_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("nobody asked for it")

    monkeypatch.setattr(importance, "_slopes", refuse)
    monkeypatch.setattr(importance, "_grams", refuse)
    captured, coupling = analysed()
    labelled = [((x,), None) for x in batches()]
    for name in ("l1", "l2", "lamp", "random"):
        importance.importance(captured, coupling, name, labelled)


def test_evidence_is_measured_once() -> None:
    made = []

    def measure() -> Slopes:
        made.append(1)
        return Slopes({}, {}, {})

    evidence = Evidence({}, 0, measure, dict)
    assert evidence.slopes is evidence.slopes
    assert evidence.gradients is evidence.slopes.mean
    assert made == [1]


def test_the_pass_of_reconstruction_is_the_one_that_a_criterion_looks_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passes = []

    def counted(*arguments: object) -> object:
        passes.append(1)
        return grams(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(unlabelled, "grams", counted)
    monkeypatch.setattr(importance, "grams", counted)
    prune(network(), torch.randn(2, 4), 0.4, "wanda", batches())
    assert passes == [1]


@pytest.mark.parametrize("need", ["gradients", "grams"])
def test_a_criterion_that_looks_at_more_than_it_says_is_refused(need: str) -> None:
    def sly(evidence: Evidence, group: Group) -> Scores:
        getattr(evidence, need)
        return np.ones(group.units, np.float32)

    captured, coupling = analysed()
    with pytest.raises(InputError, match=f"'sly' looks at {need} and does not say") as refused:
        importance.importance(captured, coupling, Criterion("sly", sly), [((x,), None) for x in batches()])
    assert f'needs=frozenset({{"{need}"}})' in refused.value.hint


def test_a_criterion_that_needs_labels_is_refused_without() -> None:
    supervised = replace(
        criteria.TABLE["taylor"], name="supervised", needs=frozenset({"gradients", "labels"})
    )
    with pytest.raises(InputError, match="'supervised' needs labelled data") as refused:
        prune(network(), torch.randn(2, 4), 0.4, supervised, batches())
    assert refused.value.hint.endswith(f"choose one of: {', '.join(criteria.TABLE)}.")


def test_a_need_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match="needs 'hessians', which is no evidence"):
        Criterion("curved", criteria.l1, needs=frozenset({"hessians"}))  # type: ignore[arg-type]


def test_scores_of_another_length_are_refused() -> None:
    short = Criterion("short", lambda evidence, group: np.ones(2, np.float32))
    captured, coupling = analysed()
    with pytest.raises(InputError, match=r"'short' gives group '0' scores of shape \(2,\)") as refused:
        importance.importance(captured, coupling, short)
    assert "its 6 units" in refused.value.hint


@pytest.mark.parametrize(("comparable", "expected"), [(True, [3.0, 1.0]), (False, [1.0, 1.0])])
def test_scores_that_are_comparable_are_not_divided_by_their_groups_mean(
    comparable: bool, expected: list[float]
) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    captured = capture(model, torch.randn(2, 4))
    by_group = {"0": 3.0, "2": 1.0}
    flat = Criterion(
        "flat",
        lambda evidence, group: np.full(group.units, by_group[group.name], np.float32),
        comparable=comparable,
    )
    scores = importance.importance(captured, analyse(captured), flat)
    assert [found.mean() for found in scores.values()] == expected
    assert [found.dtype for found in scores.values()] == [np.float32, np.float32]


# Identity ------------------------------------------------------------------------------------------------


def test_a_row_is_known_by_its_name_and_an_object_by_its_code_too(toy: Criterion) -> None:
    assert [row.key for row in criteria.TABLE.values()] == list(criteria.TABLE)
    other = Criterion("quiet", lambda evidence, group: np.ones(group.units, np.float32), TOY.says, TOY.needs)
    assert other.key.startswith("quiet ")
    assert other.key != Criterion("quiet", criteria.l1, TOY.says, TOY.needs).key
    assert other.key != replace(other, comparable=True).key


def test_importing_the_criteria_costs_no_torch() -> None:
    script = "import sys, edgeprune.pruning.criteria; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
