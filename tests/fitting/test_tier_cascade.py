"""The cascade of a fit's tiers, from what artefacts answer; the artefacts here are arrays of logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import edgeprune
from edgeprune.fitting.tier_cascade import Cascaded, Graded, cascade, grade, members
from edgeprune.records.machine import Budget, Profile
from edgeprune.records.meaning import Meaning
from edgeprune.records.trial import Candidate, DeviceState, Latency, Measurement, Report, TierResult, Verdict

SAMPLES, CLASSES, BATCH = 4000, 5, 64
LABELS = np.random.default_rng(0).integers(0, CLASSES, SAMPLES)
HARD = np.random.default_rng(1).exponential(1.0, SAMPLES)
PROFILE = Profile("press", "At the press", "x86_64", 1, Budget())
Predict = Callable[..., Any]


def classifier(skill: float, seed: int) -> Predict:
    """Logits for row numbers: the harder a sample, the nearer the label's logit is to the others."""
    logits = np.random.default_rng(seed).standard_normal((SAMPLES, CLASSES))
    logits[np.arange(SAMPLES), LABELS] += 6 * np.exp(-HARD / skill)

    def predict(rows: np.ndarray) -> np.ndarray:
        return logits[rows]

    return predict


def task(samples: Callable[[Predict], Any] | None) -> edgeprune.Task:
    return edgeprune.Task(
        model=torch.nn.Identity(),
        example=torch.zeros(1, 1),
        calibration=[],
        evaluate=lambda predict: 0.0,
        evaluate_samples=samples,
    )


def in_batches(predict: Predict) -> np.ndarray:
    parts = np.array_split(np.arange(SAMPLES), SAMPLES // BATCH)
    return np.concatenate([predict(rows).argmax(axis=1) == LABELS[rows] for rows in parts])


def tier(
    name: str, ms: float, kind: Any = "fits", profile: Profile = PROFILE, predicted: bool = False
) -> TierResult:
    measured = Measurement(
        latency=Latency(ms, ms, ms, ms, 90, ms, 1000, 10.0),
        added_mib=10.0,
        process_mib=60.0,
        size_mib=1.0,
        artefact_sha256="0" * 64,
        runtime="onnxruntime 1.0",
        threads=1,
        batch=1,
        drift=None,
        conclusive=True,
        state=DeviceState((), (), (), ()),
        assumptions=("a roofline",) if predicted else (),
    )
    chosen = Report(
        name, Candidate((), "int8"), 0.9, measured, 1, 1, (), 1, 0, (), f"{name}/m", Verdict(kind)
    )
    return TierResult(f"{ms:g} ms", chosen.verdict, Budget(), chosen, chosen, None, profile)


SCORES = [Meaning("classes", 1)]
SMALL, LARGE = tier("final-02", 1.0), tier("dense-int8", 4.0)
MODELS = {"final-02": classifier(1.0, 2), "dense-int8": classifier(3.0, 3)}


def ask(name: str, question: Callable[[Predict], Any]) -> Any:
    return question(MODELS[name])


def test_the_small_tier_answers_what_it_is_sure_of_and_the_rest_goes_on() -> None:
    found = cascade(task(in_batches), (SMALL, LARGE), ask, seed=0, meanings=SCORES)
    assert found.reason is None
    got = found.result
    assert got is not None
    assert (got.tiers, got.calibrated_on, got.drop.samples) == (("1 ms", "4 ms"), 2000, 2000)
    assert sum(got.shares) == pytest.approx(1)
    assert 0.2 < got.shares[0] < 1
    assert got.cost_ms == pytest.approx(1.0 + 4.0 * got.shares[1])
    assert got.cost_alone_ms == 4.0
    assert got.saving > 0
    assert got.drop.low <= got.metric_alone - got.metric <= got.drop.high
    assert got.memory_mib == 50.0 + 2 * 10.0, "the runtime's once"
    rest = np.random.default_rng(0).permutation(SAMPLES)[SAMPLES // 2 :]
    assert got.metric_alone == pytest.approx(in_batches(MODELS["dense-int8"])[rest].mean())


def test_calibration_does_not_see_the_samples_that_are_reported() -> None:
    """On the reported half every answer of the small tier becomes wrong: thresholds stay as they were."""
    rest = np.random.default_rng(0).permutation(SAMPLES)[SAMPLES // 2 :]
    mine = task(in_batches)
    before = cascade(mine, (SMALL, LARGE), ask, seed=0, meanings=SCORES).result

    def worse(rows: np.ndarray) -> np.ndarray:
        logits = MODELS["final-02"](rows).copy()
        spoilt = np.isin(rows, rest)
        logits[spoilt] = np.roll(logits[spoilt], 1, axis=1)
        return logits

    after = cascade(
        mine,
        (SMALL, LARGE),
        lambda name, q: q(worse if name == "final-02" else MODELS[name]),
        seed=0,
        meanings=SCORES,
    ).result
    assert before is not None
    assert after is not None
    assert after.thresholds == before.thresholds
    assert after.metric < before.metric


def test_a_small_tier_that_is_always_wrong_ends_nothing_and_that_is_told_without_infinity() -> None:
    wrong = task(in_batches)

    def never(rows: np.ndarray) -> np.ndarray:
        logits = np.zeros((len(rows), CLASSES))
        logits[np.arange(len(rows)), (LABELS[rows] + 1) % CLASSES] = 9.0
        return logits

    def asked(name: str, question: Callable[[Predict], Any]) -> Any:
        return question(never if name == "final-02" else MODELS[name])

    got = cascade(wrong, (SMALL, LARGE), asked, 0, SCORES)
    assert got.result is not None
    assert (got.result.thresholds, got.result.shares) == ((None,), (0.0, 1.0))
    assert got.result.saving == pytest.approx(-0.25), "asking in vain costs"


def test_probabilities_are_taken_as_they_are_and_logits_through_softmax() -> None:
    logits = MODELS["final-02"](np.arange(SAMPLES))
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    softmax = exp / exp.sum(axis=1, keepdims=True)
    mine = task(in_batches)
    one = grade(mine, MODELS["final-02"], 0, SCORES, check=True)
    other = grade(mine, lambda rows: softmax[rows], 0, [Meaning("probabilities", 1)], check=True)
    assert isinstance(other, Graded)
    np.testing.assert_allclose(one.confidence, other.confidence)


def shuffled(predict: Predict) -> np.ndarray:
    order = np.random.default_rng(5).permutation(SAMPLES)
    right = predict(order).argmax(axis=1) == LABELS[order]
    return right[np.argsort(order)]


def one_by_one_twice(predict: Predict) -> np.ndarray:
    predict(np.arange(10))
    return in_batches(predict)


class Growing:
    """Asks for more predictions each time: no replay can serve it."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, predict: Predict) -> np.ndarray:
        self.calls += 1
        parts = np.array_split(np.arange(SAMPLES), 10 * self.calls)
        return np.concatenate([predict(rows).argmax(axis=1) == LABELS[rows] for rows in parts])


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        (shuffled, "the i-th score of evaluate_samples is not about the i-th prediction"),
        (Growing(), "the i-th score of evaluate_samples is not about the i-th prediction"),
        (one_by_one_twice, "scores 4000 samples and asks for 4010 predictions"),
        (lambda predict: in_batches(predict) * 0.5, "samples are scored, not right or wrong"),
    ],
    ids=["another order", "cannot be repeated", "more predictions than samples", "not right or wrong"],
)
def test_samples_that_cannot_be_told_apart_give_a_reason_and_no_cascade(samples: Any, sentence: str) -> None:
    found = cascade(task(samples), (SMALL, LARGE), ask, seed=0, meanings=SCORES)
    assert found.result is None
    assert found.reason is not None
    assert sentence in found.reason


def test_outputs_of_another_shape_give_a_reason() -> None:
    mine = task(lambda predict: (predict(np.arange(8)).reshape(8, -1)[:, 0] > 0).astype(float))
    told = grade(mine, lambda rows: np.ones((8, 3, 2, 2)), 0, SCORES, check=True)
    assert told == "outputs are [N, 3, 2, 2], and a classifier gives one score per class"


def test_a_cascade_of_error_rates_is_that_of_the_accuracies_in_its_own_sign() -> None:
    right = cascade(task(in_batches), (SMALL, LARGE), ask, seed=0, meanings=SCORES).result
    mine = replace(task(lambda predict: ~in_batches(predict)), lower_is_better=True)
    wrong = cascade(mine, (SMALL, LARGE), ask, seed=0, meanings=SCORES).result
    assert right is not None
    assert wrong is not None
    assert (wrong.metric, wrong.metric_alone) == (
        pytest.approx(1 - right.metric),
        pytest.approx(1 - right.metric_alone),
    )
    assert replace(wrong, metric=right.metric, metric_alone=right.metric_alone) == right


GATE = replace(PROFILE, name="gate")


@pytest.mark.parametrize(
    ("samples", "tiers", "sentence"),
    [
        (None, (LARGE, SMALL), "the task has no evaluate_samples"),
        (in_batches, (LARGE, replace(LARGE, name="3 ms")), "are 1 model, and a cascade needs two"),
        (in_batches, (LARGE, tier("final-02", 1.0, "misses")), "are 1 model, and a cascade needs two"),
        (
            in_batches,
            (tier("a", 4.0, "predicted", predicted=True), tier("b", 1.0, "predicted", GATE, predicted=True)),
            "different machines (gate, press)",
        ),
    ],
    ids=["no samples", "one model", "one fits", "two machines"],
)
def test_tiers_that_are_no_family_give_a_reason(samples: Any, tiers: Any, sentence: str) -> None:
    found, reason = members(task(samples), tiers, SCORES)
    assert found == ()
    assert reason is not None
    assert sentence in reason


def test_members_are_asked_the_quickest_first() -> None:
    assert members(task(in_batches), (LARGE, SMALL), SCORES) == ((SMALL, LARGE), None)


@pytest.mark.parametrize(
    "meanings",
    [
        [Meaning(None)],
        [Meaning("values")],
        [Meaning("classes", 2)],
        [Meaning("classes", 1), Meaning("classes", 1)],
    ],
    ids=["unsaid", "values", "classes per place", "two of them"],
)
def test_without_one_output_of_class_scores_there_is_no_cascade(meanings: list[Meaning]) -> None:
    found, reason = members(task(in_batches), (LARGE, SMALL), meanings)
    assert found == ()
    assert reason is not None
    assert "class scores" in reason


def test_confidence_is_read_off_the_output_that_holds_class_scores() -> None:
    mine = task(lambda predict: in_batches(lambda rows: predict(rows)[1]))
    beside = grade(
        mine,
        lambda rows: (np.zeros((len(rows), 3)), MODELS["final-02"](rows)),
        0,
        [Meaning("embeddings", 1), *SCORES],
        check=True,
    )
    alone = grade(task(in_batches), MODELS["final-02"], 0, SCORES, check=True)
    assert isinstance(beside, Graded)
    np.testing.assert_array_equal(beside.confidence, alone.confidence)


def test_a_cascade_is_a_record_that_the_ledger_keeps() -> None:
    from edgeprune.records.codec import from_json, to_json

    found = cascade(task(in_batches), (SMALL, LARGE), ask, seed=0, meanings=SCORES)
    assert from_json(Cascaded, to_json(found)) == found
