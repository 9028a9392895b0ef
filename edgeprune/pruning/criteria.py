"""Pruning criteria: one function and one row each, group -> importance of its units, float32[units].

    scores = l1(evidence, group)  # len(scores) == group.units

A function takes from `Evidence` what it looks at: weights, gradients, Gram matrices of activations. Its row
says what it needs, so that nothing is computed that nobody asks for. To add a criterion, add both here, or
give `edgeprune.fit` and `edgeprune.prune` a `Criterion` of your own. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import InputError
from edgeprune.pruning.identity import digest
from edgeprune.pruning.surgeon import Reader, removal

if TYPE_CHECKING:
    import torch

    from edgeprune.graph.coupling import Axis, Group

Scores = NDArray[np.float32]
# gradients: of the loss, of batches. samples: the gradients are those of single samples. labels: the loss of
# the gradients is the task's. grams: of the inputs of layers.
Need = Literal["gradients", "samples", "labels", "grams"]


@dataclass(frozen=True)
class Slopes:
    """Means over the batches of a pass, or over single samples; g is the gradient of a batch's loss.

    mean, square: of g and of g^2, by parameter, float32; parameters without a gradient are absent.
    change: by group, [units], the mean of (sum of g * w)^2 over the elements w that read a unit: the squared
    first-order change of the loss when the unit is zeroed. Where no parameter reads it, the sum is over all
    elements that leave with it.
    """

    mean: Mapping[str, torch.Tensor]
    square: Mapping[str, torch.Tensor]
    change: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Evidence:
    """Measurements of a model that a criterion may look at, each made when it is first asked for.

    weights: every parameter, by name. seed: for criteria that draw.
    measure_slopes, measure_grams, measure_spreads: make `slopes`, `grams` and `spreads`.
    scales: names of the weights that BatchNorms multiply with.
    """

    weights: Mapping[str, torch.Tensor]
    seed: int
    measure_slopes: Callable[[], Slopes] = field(repr=False)
    measure_grams: Callable[[], Mapping[str, torch.Tensor]] = field(repr=False)
    scales: frozenset[str] = frozenset()
    measure_spreads: Callable[[], Mapping[str, torch.Tensor]] = field(repr=False, default=dict)

    @cached_property
    def slopes(self) -> Slopes:
        """Means over the gradients of batches, or of samples where the criterion needs "samples"."""
        return self.measure_slopes()

    @property
    def gradients(self) -> Mapping[str, torch.Tensor]:
        """Mean gradient of the loss, by parameter; parameters without one are absent."""
        return self.slopes.mean

    @cached_property
    def grams(self) -> Mapping[str, torch.Tensor]:
        """Gram matrices of activations: sum of x x^T over the inputs x of a consumer, by its weight's name.

        [features, features], float64, in the order of the weight's flattened rows, [out, features]: for a
        convolution, x is a patch. Consumers are linear layers and ungrouped convolutions that sum over
        prunable inputs; the rows are those that reconstruction samples.
        """
        return self.measure_grams()

    @cached_property
    def spreads(self) -> Mapping[str, torch.Tensor]:
        """Gram matrices as in `grams`, of inputs around their mean where the layer has a bias."""
        return self.measure_spreads()


@dataclass(frozen=True)
class Criterion:
    """A pruning criterion: a function that scores the units of a group.

    name: how it is called. score: (evidence, group) -> [units], finite, 0 or more, the least important unit
    lowest. says: one sentence, for the documentation. needs: what of the evidence it looks at beyond the
    weights. comparable: scores of different groups are in one unit and are not divided by their group's mean;
    else only the ratios within a group count.
    Raises `InputError` for a need that there is not.
    """

    name: str
    score: Callable[[Evidence, Group], Scores]
    says: str = ""
    needs: frozenset[Need] = frozenset()
    comparable: bool = False

    def __post_init__(self) -> None:
        unknown = sorted(set(self.needs) - set(get_args(Need)))
        if unknown:
            raise InputError(
                f"Criterion {self.name!r} needs {unknown[0]!r}, which is no evidence.",
                f"Choose among {', '.join(get_args(Need))}; weights are always there.",
            )

    @property
    def key(self) -> str:
        """The criterion's identity, by which a run is resumed: its name, and its code where it has no row."""
        if TABLE.get(self.name) == self:
            return self.name
        return f"{self.name} {digest((self.score, sorted(self.needs), self.comparable))}"

    def check_labels(self, labelled: bool) -> None:
        """Raise `InputError` when the criterion needs labels and there are none."""
        if "labels" in self.needs and not labelled:
            without = [row.name for row in TABLE.values() if "labels" not in row.needs]
            raise InputError(
                f"Criterion {self.name!r} needs labelled data and there is none.",
                f"Give Task.train to a fit, or choose one of: {', '.join(without)}.",
            )


def l1(evidence: Evidence, group: Group) -> Scores:
    """Sum of |w| over the group (Li et al. 2017, summed over the coupled layers as in DepGraph, 2023)."""
    return _magnitude(evidence, group, 1).astype(np.float32)


def l2(evidence: Evidence, group: Group) -> Scores:
    """Root of the sum of squared weights over the group."""
    return np.sqrt(_magnitude(evidence, group, 2)).astype(np.float32)


def lamp(evidence: Evidence, group: Group) -> Scores:
    """Squared L2 of a unit by that of all units in the group that are at least as large: in (0, 1].

    Layer-adaptive magnitude (Lee et al. 2021, arXiv:2010.07611) of units instead of single weights: how much
    is lost relative to what would be left, so that groups are comparable. The largest unit of each group
    scores 1.
    """
    squares = _magnitude(evidence, group, 2)
    ascending = np.sort(squares)
    left = np.cumsum(ascending[::-1])[::-1][np.searchsorted(ascending, squares)]
    return np.asarray(squares / np.where(left > 0, left, 1), np.float32)


def bn_scale(evidence: Evidence, group: Group) -> Scores:
    """Mean of |gamma| over the BatchNorms of the group (network slimming, Liu et al. 2017, arXiv:1708.06519).

    As in the paper, comparable between groups. Raises `InputError` for a group without BatchNorm scales.
    """
    scaled = [axis for axis in group.axes if axis.parameter in evidence.scales]
    if not scaled:
        raise InputError(
            f"Criterion 'bn-scale' looks at the scales of BatchNorms, and group {group.name!r} has none.",
            "Choose l2, which looks at all weights, or taylor.",
        )
    total = summed(group.units, scaled, lambda name: evidence.weights[name].detach().double().abs())
    return np.asarray(total / sum(axis.positions.shape[1] for axis in scaled), np.float32)


def taylor(evidence: Evidence, group: Group) -> Scores:
    """Sum of |g * w| over the group, where g is the mean over the batches.

    The first-order change of the loss as each weight is zeroed (Molchanov et al. 2017, arXiv:1611.06440), one
    by one as in LLM-Pruner (Ma et al. 2023, arXiv:2305.11627).
    """

    return _by_weight(evidence, group.units, group.axes, lambda w, g, h: (g * w).abs()).astype(np.float32)


def taylor_unit(evidence: Evidence, group: Group) -> Scores:
    """Squared first-order change of a batch's loss when the unit is zeroed, a mean over the batches.

    The gate of Molchanov et al. 2019, arXiv:1906.10771, behind a unit: squared batch by batch, since over all
    of the data the gradient of a trained model is near zero.
    """
    return evidence.slopes.change[group.name].astype(np.float32)


def fisher(evidence: Evidence, group: Group) -> Scores:
    """Half the mean square of the first-order change of a sample's loss when the unit is zeroed.

    With the empirical Fisher information in place of the second derivative, the second-order change of the
    loss (Theis et al. 2018, arXiv:1801.05787; one mask for all that read a unit as in "Group Fisher Pruning",
    Liu et al. 2021, arXiv:2108.00708).
    """
    return (evidence.slopes.change[group.name] / 2).astype(np.float32)


def obd(evidence: Evidence, group: Group) -> Scores:
    """Sum of w^2 * h / 2 over the group (Optimal Brain Damage, LeCun et al. 1990).

    h is the diagonal of the empirical Fisher, the mean of g^2 over single samples, in place of the second
    derivative, which it approximates at an optimum.
    """

    return _by_weight(evidence, group.units, group.axes, lambda w, g, h: h * w**2 / 2).astype(np.float32)


def obs(evidence: Evidence, group: Group) -> Scores:
    """Optimal Brain Surgeon for units: what a unit's loss adds to the error that least squares leaves.

    Each as a share of the output energy of the layers that read the group, when the units before it have left
    already (`surgeon`). Where no layer with a Gram matrix reads a group, the share of its squared weights:
    the same error for inputs that are alike and independent.
    """
    readers = []
    for axis in group.axes:
        if axis.role == "in" and axis.parameter in evidence.spreads:
            weight = evidence.weights[axis.parameter].detach().double()
            kernel = weight[0, 0].numel()
            columns = (axis.positions[:, :, None] * kernel + np.arange(kernel)).reshape(group.units, -1)
            flat, spread = weight.reshape(len(weight), -1), evidence.spreads[axis.parameter]
            readers.append(Reader(flat.cpu().numpy(), spread.cpu().numpy(), columns))
    if readers:
        return removal(readers, group.units).scores.astype(np.float32)
    squares = _magnitude(evidence, group, 2)
    return (squares / (squares.sum() or 1.0)).astype(np.float32)


def llm_pruner_element(evidence: Evidence, group: Group) -> Scores:
    """Sum of |g * w - h * w^2 / 2| over the coupled layers (LLM-Pruner, Ma et al. 2023, arXiv:2305.11627).

    Element-wise: the change of the loss when one weight is zeroed, with the diagonal h of the empirical
    Fisher, the mean of g^2 over single samples; g is the mean.
    """
    found = _by_weight(evidence, group.units, group.axes, lambda w, g, h: (g * w - h * w**2 / 2).abs())
    return found.astype(np.float32)


def llm_pruner_vector(evidence: Evidence, group: Group) -> Scores:
    """Sum over the coupled layers of |sum of g * w| (LLM-Pruner, Ma et al. 2023, arXiv:2305.11627).

    Vector-wise, first order: the weights of a layer that leave with a unit are zeroed together. g is the mean
    over the batches.
    """
    layers = (_by_weight(evidence, group.units, [axis], lambda w, g, h: g * w) for axis in group.axes)
    return np.asarray(sum(map(np.abs, layers)), np.float32)


def wanda(evidence: Evidence, group: Group) -> Scores:
    """Sum of |w_ij| * ||x_j||_2 over the columns j by which consumers read a unit.

    Sun et al. 2023, arXiv:2306.11695, summed over columns: units leave whole. In a group that has no consumer
    with a Gram matrix, the sum of |w|.
    """
    read = [axis for axis in group.axes if axis.role == "in" and axis.parameter in evidence.grams]
    if not read:
        return l1(evidence, group)

    def values(name: str) -> torch.Tensor:
        weight = evidence.weights[name].detach().double().abs()
        return weight * evidence.grams[name].diagonal().sqrt().reshape(weight.shape[1:])

    return summed(group.units, read, values).astype(np.float32)


def random(evidence: Evidence, group: Group) -> Scores:
    """Seeded noise: the baseline that any criterion has to beat."""
    key = [evidence.seed & 0xFFFFFFFF, *group.name.encode()]  # numpy takes no negative seed
    return np.random.default_rng(key).random(group.units).astype(np.float32)


_GRADIENTS: frozenset[Need] = frozenset({"gradients"})
_SAMPLES: frozenset[Need] = frozenset({"gradients", "samples"})
_ROWS = (
    Criterion("l1", l1, "Sum of the absolute weights of a unit."),
    Criterion("l2", l2, "Root of the sum of the squared weights of a unit."),
    Criterion(
        "lamp",
        lamp,
        "Squared L2 of a unit by that of all units of its group that are at least as large.",
        comparable=True,
    ),
    Criterion(
        "bn-scale",
        bn_scale,
        "Mean of the absolute BatchNorm scales of a unit; every group must have a BatchNorm.",
        comparable=True,
    ),
    Criterion(
        "taylor",
        taylor,
        "First-order change of the loss as each weight of a unit is zeroed: absolute gradient times weight.",
        _GRADIENTS,
    ),
    Criterion(
        "taylor-unit",
        taylor_unit,
        "Squared first-order change of a batch's loss when a unit is zeroed, a mean over the batches.",
        _GRADIENTS,
    ),
    Criterion(
        "fisher",
        fisher,
        "Second-order change of the loss when a unit is zeroed, by its Fisher information.",
        _SAMPLES,
    ),
    Criterion(
        "obd",
        obd,
        "Optimal Brain Damage: squared weights times the diagonal of the Fisher information.",
        _SAMPLES,
    ),
    Criterion(
        "obs",
        obs,
        "Optimal Brain Surgeon: error that least squares leaves when a unit follows those already gone.",
        frozenset({"grams"}),
        comparable=True,
    ),
    Criterion(
        "wanda",
        wanda,
        "Weights that read a unit, each times the norm of the input that it multiplies.",
        frozenset({"grams"}),
    ),
    Criterion(
        "llm-pruner-element",
        llm_pruner_element,
        "LLM-Pruner: first- and second-order change of the loss as each weight of a unit is zeroed, summed.",
        _SAMPLES,
    ),
    Criterion(
        "llm-pruner-vector",
        llm_pruner_vector,
        "LLM-Pruner: first-order change of the loss as each layer's part of a unit is zeroed, summed.",
        _GRADIENTS,
    ),
    Criterion("random", random, "Seeded noise, the baseline that any criterion has to beat."),
)
DEFAULT, WITHOUT_DATA = "obs", "l2"
TABLE: Mapping[str, Criterion] = {row.name: row for row in _ROWS}


def find_criterion(criterion: str | Criterion) -> Criterion:
    """The criterion of that name, or the one given. Raises `InputError` when there is none."""
    if isinstance(criterion, Criterion):
        return criterion
    if criterion not in TABLE:
        raise InputError(f"There is no criterion {criterion!r}.", f"Choose one of: {', '.join(TABLE)}.")
    return TABLE[criterion]


def summed(
    units: int, axes: Iterable[Axis], values: Callable[[str], torch.Tensor | None]
) -> NDArray[np.float64]:
    """[units], float64: elements of `values(parameter)` summed over the positions that leave with a unit."""
    total = np.zeros(units, dtype=np.float64)
    for axis in axes:
        found = values(axis.parameter)
        if found is None:
            continue
        rows = found.movedim(axis.dim, 0).reshape(axis.size, -1).sum(dim=1)
        total += rows.cpu().numpy()[axis.positions].sum(axis=1)
    return total


def _by_weight(
    evidence: Evidence,
    units: int,
    axes: Iterable[Axis],
    score: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
) -> NDArray[np.float64]:
    """[units], float64: `score` of weights, their mean gradients and mean squared gradients, summed."""

    def values(name: str) -> torch.Tensor | None:
        if name not in evidence.slopes.mean:
            return None
        weight, slopes = evidence.weights[name].detach(), evidence.slopes
        return score(weight.double(), slopes.mean[name].double(), slopes.square[name].double())

    return summed(units, axes, values)


def _magnitude(evidence: Evidence, group: Group, power: int) -> NDArray[np.float64]:
    """Norm of each unit over matrices and filters: a bias or a norm's scale says little about size."""

    def values(name: str) -> torch.Tensor | None:
        weight = evidence.weights.get(name)
        if weight is None or (weight.dim() < 2 and not only_vectors):
            return None
        return weight.detach().double().abs() ** power  # a half squared may be zero or infinite

    only_vectors = all(
        evidence.weights[a.parameter].dim() < 2 for a in group.axes if a.parameter in evidence.weights
    )
    return summed(group.units, group.axes, values)


__all__ = [
    "DEFAULT",
    "TABLE",
    "WITHOUT_DATA",
    "Criterion",
    "Evidence",
    "Need",
    "Scores",
    "Slopes",
    "bn_scale",
    "find_criterion",
    "fisher",
    "l1",
    "l2",
    "lamp",
    "llm_pruner_element",
    "llm_pruner_vector",
    "obd",
    "obs",
    "random",
    "summed",
    "taylor",
    "taylor_unit",
    "wanda",
]
