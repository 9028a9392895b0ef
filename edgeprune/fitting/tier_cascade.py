"""Cascade of a fit's tiers, calibrated and measured on the answers of their artefacts on the device.

Which samples are right is the task's to say (`Task.evaluate_samples`); how sure an artefact was is read off
the outputs that it gave to that evaluation. That the i-th score is about the i-th row of the outputs is
checked, not assumed: with half of the rows turned into their opposite, exactly those scores must fall.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import EdgepruneError, InputError
from edgeprune.records.meaning import Meaning
from edgeprune.records.task import Predict, Task
from edgeprune.records.trial import CascadeResult, Measurement, TierResult
from edgeprune.search.cascade import NEVER, Tier, calibrate, confidence_of, outcome
from edgeprune.tasks import call_evaluate_samples

ALLOWED = 0.0  # what a cascade may lose, on average, against its largest tier alone
Scores = NDArray[np.float64]
Shares = TypeVar("Shares", float, Scores)


@dataclass(frozen=True)
class Cascaded:
    """The ledger's record of a cascade, or of the reason why there is none."""

    result: CascadeResult | None
    reason: str | None


@dataclass(frozen=True)
class Graded:
    """Confidence of a model in each sample, and whether its answer was right (1 or 0)."""

    confidence: Scores
    correct: Scores


# (a trial's name, what is asked of its artefact on the device) -> the answer
Ask = Callable[[str, Callable[[Predict], Graded | str]], Graded | str]


def members(
    task: Task, tiers: Sequence[TierResult], meanings: Sequence[Meaning]
) -> tuple[tuple[TierResult, ...], str | None]:
    """Tiers that a cascade may consist of, the quickest first; or none, and the reason.

    meanings: of the model's outputs.
    """
    if task.evaluate_samples is None:
        return (), "the task has no evaluate_samples to tell which samples are right"
    if len(_class_scores(meanings)) != 1:
        return (), "no one output is said to hold class scores, by which a cascade knows how sure it is"
    able = {tier.chosen.name: tier for tier in tiers if tier.verdict.kind != "misses"}
    if len(able) < 2:
        return (
            (),
            f"the tiers that fit are {len(able)} model{'s' * (len(able) != 1)}, and a cascade needs two",
        )
    if any(tier.chosen.measurement.predicted for tier in able.values()):
        machines = sorted({tier.profile.name for tier in able.values()})
        if len(machines) > 1:
            return (), f"the tiers are for different machines ({', '.join(machines)})"
    return tuple(sorted(able.values(), key=_cost)), None


def cascade(
    task: Task, tiers: Sequence[TierResult], ask: Ask, seed: int, meanings: Sequence[Meaning]
) -> Cascaded:
    """Cascade calibrated on half of the samples and measured on the others. tiers: of `members`."""
    asked: list[Tier] = []
    for tier in tiers:
        graded = ask(tier.chosen.name, lambda predict: grade(task, predict, seed, meanings, check=not asked))
        if isinstance(graded, str):
            return Cascaded(None, graded)
        asked.append(Tier(tier.name, graded.confidence, graded.correct, _cost(tier)))
    samples = asked[0].correct.size
    if any(tier.correct.size != samples for tier in asked):
        return Cascaded(None, "evaluate_samples did not score the same number of samples each time")
    order = np.random.default_rng(seed).permutation(samples)
    half, rest = order[: samples // 2], order[samples // 2 :]
    found = calibrate([_of(tier, half) for tier in asked], ALLOWED)
    got = outcome(found, [_of(tier, rest) for tier in asked])
    return Cascaded(
        CascadeResult(
            tiers=found.tiers,
            thresholds=tuple(None if least == NEVER else least for least in found.thresholds),
            calibrated_on=half.size,
            shares=got.shares,
            metric=_right(task, got.metric),
            metric_alone=_right(task, got.metric_alone),
            drop=got.drop,
            cost_ms=got.cost,
            cost_alone_ms=got.cost_alone,
            memory_mib=_side_by_side([tier.chosen.measurement for tier in tiers]),
        ),
        None,
    )


def _side_by_side(measured: Sequence[Measurement]) -> float:
    """Peak memory of several models in one process: the runtime's own once, and what each of them adds."""
    runtime_mib = max(each.memory_mib - each.added_mib for each in measured)
    return runtime_mib + sum(each.added_mib for each in measured)


def grade(
    task: Task, predict: Predict, seed: int, meanings: Sequence[Meaning], *, check: bool
) -> Graded | str:
    """Grades of all samples by evaluating one by one; or a sentence why these cannot be told apart.

    meanings: of the outputs, one of which holds class scores. check: that scores and rows of the outputs come
    in the same order.
    """
    (place,) = _class_scores(meanings)
    answers: list[Any] = []

    def recorded(*arrays: Any) -> Any:
        answers.append(predict(*arrays))
        return answers[-1]

    scores = call_evaluate_samples(task, recorded)
    if not np.isin(scores, (0, 1)).all():
        return "samples are scored, not right or wrong"
    correct = _right(task, scores)
    outputs = [np.asarray(_output(answer, place)) for answer in answers]
    shapes = {output.shape[1:] for output in outputs}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1 or next(iter(shapes))[0] < 2:
        return f"outputs are {_shown(outputs)}, and a classifier gives one score per class"
    logits = np.concatenate(outputs).astype(np.float64)
    if len(logits) != correct.size:
        return f"evaluate_samples scores {correct.size} samples and asks for {len(logits)} predictions"
    if check and not _same_order(task, answers, correct, seed, place):
        return "the i-th score of evaluate_samples is not about the i-th prediction that it asks for"
    certain = logits.max(axis=1) if meanings[place].kind == "probabilities" else confidence_of(logits)
    return Graded(certain, correct)


def _right(task: Task, shares: Shares) -> Shares:
    """Shares of right answers of what the task counts, right or wrong ones; and what it counts, of shares."""
    return 1 - shares if task.lower_is_better else shares


def _class_scores(meanings: Sequence[Meaning]) -> list[int]:
    """Places of the outputs that hold one score per class."""
    kinds = ("classes", "probabilities")
    return [at for at, meaning in enumerate(meanings) if meaning.kind in kinds and meaning.axis == 1]


def _same_order(task: Task, answers: Sequence[Any], correct: Scores, seed: int, place: int) -> bool:
    """Whether negated scores of some rows make exactly those samples wrong."""
    turned = np.random.default_rng(seed).random(correct.size) < 0.5
    waiting, start = list(reversed(answers)), 0

    def replayed(*arrays: Any) -> Any:
        nonlocal start
        if not waiting:
            raise InputError("The evaluation asks for more predictions than before.", "Let it repeat itself.")
        answer = waiting.pop()
        output = np.array(_output(answer, place))
        rows = turned[start : start + len(output)]
        start += len(output)
        output[rows] = -output[rows]
        if isinstance(answer, tuple | list):
            return (*answer[:place], output, *answer[place + 1 :])
        return output

    try:
        again = _right(task, call_evaluate_samples(task, replayed))
    except EdgepruneError:  # it may well stumble over the answers to another question
        return False
    if again.shape != correct.shape:
        return False
    return bool((again[~turned] == correct[~turned]).all() and not again[turned & (correct == 1)].any())


def _output(answer: Any, place: int) -> Any:
    return answer[place] if isinstance(answer, tuple | list) else answer


def _shown(outputs: Sequence[NDArray[Any]]) -> str:
    return ", ".join(
        sorted({f"[N{''.join(f', {size}' for size in output.shape[1:])}]" for output in outputs})
    )


def _cost(tier: TierResult) -> float:
    return tier.chosen.measurement.latency.p50_ms


def _of(tier: Tier, rows: NDArray[np.int64]) -> Tier:
    return replace(tier, confidence=tier.confidence[rows], correct=tier.correct[rows])
