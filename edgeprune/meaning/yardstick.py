"""Yardstick of a model's outputs: how far they are from the original's, each by its meaning.

    classes         Kullback-Leibler divergence along the axis of the classes, of scores after a softmax
    probabilities   the same without a softmax; of single ones, of each and its opposite
    labels          the same of each label's sigmoid
    values          mean squared error, relative to the spread that the original's outputs have over the data
    embeddings      1 - cosine along the axis of the vector
    none            nothing

An output without a meaning counts as values do. Integers count as the share that differs, where no output is
a float. A distance is a mean over samples and places, in nats or a share, summed over the outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from edgeprune.errors import InputError
from edgeprune.meaning.kinds import Outputs
from edgeprune.records.meaning import Meaning

SPREAD_ROWS = 256  # of calibration data, from which the spread of the outputs is taken
# Least spread of a quantity, as a share of the largest variance in its output: one that hardly moves would
# else outweigh all others by its rounding errors.
LEAST_SPREAD = 1e-4
SUMS_TO_ONE = 1e-2  # how far from 1 probabilities along their axis may sum, in half precision too
_TINY = 1e-12

Tensors = Sequence[torch.Tensor]
Spread = tuple[tuple[int, torch.Tensor], ...]  # (axis, variance of the quantity at each index of the axis)


@dataclass(frozen=True)
class Yardstick:
    """Yardstick of outputs. spreads: of each output; empty for one that is not compared as values are."""

    outputs: Outputs
    spreads: tuple[Spread, ...]

    @property
    def meanings(self) -> tuple[Meaning, ...]:
        return self.outputs.meanings

    def distance(self, given: Tensors, wanted: Tensors, temperature: float = 1.0) -> torch.Tensor:
        """Distance of outputs from the original's, a scalar with gradients for `given`; 0 for equal ones.

        temperature: softens distributions; divergences are multiplied by its square (Hinton et al. 2015).
        """
        total = torch.zeros(())
        rows = zip(self.meanings, self.spreads, given, wanted, strict=True)
        for meaning, spread, ours, theirs in rows:
            total = total + _distance(meaning, spread, ours, theirs, temperature)
        return total

    def agreement(self, given: Tensors, wanted: Tensors) -> float:
        """Agreement of outputs with the original's, 1 for equal ones, a mean over the outputs that count.

        Of classes, labels and probabilities the share of places with the same decision; of values
        1 - distance, the share of their variance that is kept; of embeddings the cosine.
        """
        found = []
        for meaning, spread, ours, theirs in zip(self.meanings, self.spreads, given, wanted, strict=True):
            same = decided(meaning, ours, theirs)
            if same is not None:
                found.append(float(same.double().mean()))
            elif meaning.kind != "none":
                found.append(1.0 - float(_distance(meaning, spread, ours, theirs)))
        return sum(found) / len(found)

    def own_objective(self, outputs: Tensors) -> torch.Tensor:
        """A loss without labels, whose gradient shows which weights the outputs hang on.

        Where outputs decide, the cross-entropy against their own decisions; else the logarithm of their
        energy ("memory-aware synapses", Aljundi et al. 2018, take the gradient of the squared norm).
        """
        total = torch.zeros(())
        for meaning, output in zip(self.meanings, outputs, strict=True):
            if meaning.kind == "none" or not output.is_floating_point():
                continue
            scores = logits_of(meaning, output)
            if scores is None:
                total = total + output.square().mean().clamp_min(_TINY).log()
            elif meaning.axis is None:
                own = (scores.detach() > 0).to(scores.dtype)
                total = total + F.binary_cross_entropy_with_logits(scores, own)
            else:
                scores = scores.movedim(meaning.axis, 1)
                total = total + F.cross_entropy(scores, scores.detach().argmax(1))
        return total


def yardstick(outputs: Outputs, answers: Iterable[Tensors]) -> Yardstick:
    """Yardstick with the spread that the original has over `answers`, its outputs for some batches.

    The first SPREAD_ROWS rows are read, no more. Raises `InputError` when what is said to be probabilities is
    none, or sums to 1 along several axes.
    """
    sums = {at: _Sums() for at, meaning in enumerate(outputs.meanings) if meaning.kind in (None, "values")}
    seen = 0
    for answer in answers:
        for at, output in enumerate(answer):
            if outputs.meanings[at].kind == "probabilities":
                outputs = _with_axis(outputs, at, output)
            if at in sums:
                sums[at].add(output)
        seen += len(answer[0])
        if seen >= SPREAD_ROWS:
            break
    spreads = (
        sums[at].spread(meaning.axis) if at in sums else () for at, meaning in enumerate(outputs.meanings)
    )
    return Yardstick(outputs, tuple(spreads))


def decided(meaning: Meaning, ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor | None:
    """Whether both decide alike, [N, places]; None for outputs that decide nothing."""
    if not theirs.is_floating_point():
        return None if meaning.kind == "none" else (ours == theirs).reshape(len(theirs), -1)
    one, other = logits_of(meaning, ours), logits_of(meaning, theirs)
    if one is None or other is None:
        return None
    if meaning.axis is None:
        same = (one > 0) == (other > 0)
    else:
        same = one.argmax(meaning.axis) == other.argmax(meaning.axis)
    return same.reshape(len(theirs), -1)


def _distance(
    meaning: Meaning, spread: Spread, ours: torch.Tensor, theirs: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    if meaning.kind == "none":
        return torch.zeros(())
    if not theirs.is_floating_point():
        return (ours != theirs).float().mean()
    one, other = logits_of(meaning, ours), logits_of(meaning, theirs)
    if one is not None and other is not None:
        return _divergence(one / temperature, other / temperature, meaning.axis) * temperature**2
    if meaning.kind == "embeddings":
        axis = meaning.axis if meaning.axis is not None else 1
        return (1 - F.cosine_similarity(ours, theirs, dim=axis)).mean()
    return squared_error(ours, theirs, spread)


def logits_of(meaning: Meaning, output: torch.Tensor) -> torch.Tensor | None:
    """Scores whose softmax along the axis, or sigmoid, is the distribution that an output stands for."""
    if meaning.kind in ("classes", "labels"):
        return output
    if meaning.kind != "probabilities":
        return None
    least = torch.finfo(output.dtype).eps
    if meaning.axis is None:
        return output.clamp(least, 1 - least).logit()
    return output.clamp_min(least).log()


def _divergence(ours: torch.Tensor, theirs: torch.Tensor, axis: int | None) -> torch.Tensor:
    """Divergence of two distributions by their scores, a mean over samples and places."""
    if axis is None:
        one, other = (torch.stack([F.logsigmoid(x), F.logsigmoid(-x)]) for x in (ours, theirs))
        axis = 0
    else:
        one, other = F.log_softmax(ours, axis), F.log_softmax(theirs, axis)
    return (other.exp() * (other - one)).sum(axis).mean()


def squared_error(ours: torch.Tensor, theirs: torch.Tensor, spread: Spread) -> torch.Tensor:
    """Squared error relative to the spread: a mean over the quantities along an axis, and over the axes."""
    errors = _places((ours - theirs).square()).mean(0)
    found = [(_along(errors, axis) / variance.to(errors)).mean() for axis, variance in spread]
    return torch.stack(found).mean()


class _Sums:
    """Sums over the rows of an output, from which its variance over them is taken, place by place."""

    def __init__(self) -> None:
        self.rows = 0
        self._energy = 0.0
        self._first = self._sum = self._squares = torch.zeros((), dtype=torch.float64)

    def add(self, output: torch.Tensor) -> None:
        for row in _places(output):  # one by one: all in double would take several times the outputs
            exact = row.double()
            if not self.rows:
                self._first = exact
            off = exact - self._first  # about a value near the mean: no cancellation
            self._sum, self._squares = self._sum + off, self._squares + off.square()
            self._energy += float(exact.square().mean())
            self.rows += 1

    def spread(self, axis: int | None) -> Spread:
        """Variance of the quantities along `axis`; along each axis by turns where none is given.

        Where the rows are all alike, or there is only one, the energy of the output stands for all of them.
        """
        variance = (self._squares / self.rows - (self._sum / self.rows).square()).clamp_min(0)
        energy = self._energy / self.rows
        if not float(variance.max()) > _TINY * energy:
            variance = torch.full_like(variance, energy or 1.0)
        least = LEAST_SPREAD * float(variance.max())
        axes = range(1, variance.dim() + 1) if axis is None else (axis,)
        return tuple((at, _along(variance, at).clamp_min(least).float()) for at in axes)


def _places(output: torch.Tensor) -> torch.Tensor:
    """[N, places ...]: an output of one number per sample has one place."""
    return output[:, None] if output.dim() == 1 else output


def _along(sample: torch.Tensor, axis: int) -> torch.Tensor:
    """Mean of a sample's places by their index along `axis`, which counts the batch that is gone."""
    return sample.movedim(axis - 1, 0).reshape(sample.shape[axis - 1], -1).mean(1)


def _with_axis(outputs: Outputs, at: int, output: torch.Tensor) -> Outputs:
    """Outputs with the axis along which these probabilities sum to 1, or without one."""
    called, meaning = outputs.called(at), outputs.meanings[at]
    low, high = float(output.min()), float(output.max())
    hint = "Say 'classes' or 'labels' of logits, and 'values' of numbers to predict."
    if low < -SUMS_TO_ONE or high > 1 + SUMS_TO_ONE:
        outside = low if low < -SUMS_TO_ONE else high
        raise InputError(f"{called} holds {outside:.4g}, which is no probability.", hint)
    axes = [
        axis
        for axis in ([meaning.axis] if meaning.axis is not None else range(1, output.dim()))
        if output.shape[axis] > 1 and bool(((output.sum(axis) - 1).abs() <= SUMS_TO_ONE).all())
    ]
    if meaning.axis is not None and not axes:
        raise InputError(f"{called} does not sum to 1 along axis {meaning.axis}.", hint)
    if len(axes) > 1:
        raise InputError(
            f"{called} sums to 1 along axis {' and '.join(map(str, axes))}.",
            f"Say which one holds the classes, as in 'probabilities:{axes[0]}'.",
        )
    meanings = list(outputs.meanings)
    meanings[at] = Meaning("probabilities", axes[0] if axes else None)
    return replace(outputs, meanings=tuple(meanings))
