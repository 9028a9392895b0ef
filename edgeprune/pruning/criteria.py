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

if TYPE_CHECKING:
    import torch

    from edgeprune.graph.coupling import Axis, Group

Scores = NDArray[np.float32]
# gradients: of the loss. labels: the loss of those gradients is the task's. grams: of the inputs of layers.
Need = Literal["gradients", "labels", "grams"]


@dataclass(frozen=True)
class Evidence:
    """Measurements of a model that a criterion may look at, each made when it is first asked for.

    weights: every parameter, by name. seed: for criteria that draw.
    measure_gradients, measure_grams: make `gradients` and `grams`.
    """

    weights: Mapping[str, torch.Tensor]
    seed: int
    measure_gradients: Callable[[], Mapping[str, torch.Tensor]] = field(repr=False)
    measure_grams: Callable[[], Mapping[str, torch.Tensor]] = field(repr=False)

    @cached_property
    def gradients(self) -> Mapping[str, torch.Tensor]:
        """Mean gradient of the loss, by parameter; parameters without one are absent."""
        return self.measure_gradients()

    @cached_property
    def grams(self) -> Mapping[str, torch.Tensor]:
        """Gram matrices of activations: sum of x x^T over the inputs x of a consumer, by its weight's name.

        [features, features], float64, in the order of the weight's flattened rows, [out, features]: for a
        convolution, x is a patch. Consumers are linear layers and ungrouped convolutions that sum over
        prunable inputs; the rows are those that reconstruction samples.
        """
        return self.measure_grams()


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


def taylor(evidence: Evidence, group: Group) -> Scores:
    """First-order change of the loss when the unit is zeroed: sum of |g * w| (Molchanov et al. 2019)."""

    def values(name: str) -> torch.Tensor | None:
        gradient = evidence.gradients.get(name)
        return None if gradient is None else (gradient.double() * evidence.weights[name].detach()).abs()

    return _summed(group.units, group.axes, values).astype(np.float32)


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

    return _summed(group.units, read, values).astype(np.float32)


def random(evidence: Evidence, group: Group) -> Scores:
    """Seeded noise: the baseline that any criterion has to beat."""
    key = [evidence.seed & 0xFFFFFFFF, *group.name.encode()]  # numpy takes no negative seed
    return np.random.default_rng(key).random(group.units).astype(np.float32)


_ROWS = (
    Criterion("l1", l1, "Sum of the absolute weights of a unit."),
    Criterion("l2", l2, "Root of the sum of the squared weights of a unit."),
    Criterion(
        "taylor",
        taylor,
        "First-order change of the loss when a unit is zeroed: sum of absolute gradient times weight.",
        frozenset({"gradients"}),
    ),
    Criterion(
        "wanda",
        wanda,
        "Weights that read a unit, each times the norm of the input that it multiplies.",
        frozenset({"grams"}),
    ),
    Criterion("random", random, "Seeded noise, the baseline that any criterion has to beat."),
)
TABLE: Mapping[str, Criterion] = {row.name: row for row in _ROWS}


def find_criterion(criterion: str | Criterion) -> Criterion:
    """The criterion of that name, or the one given. Raises `InputError` when there is none."""
    if isinstance(criterion, Criterion):
        return criterion
    if criterion not in TABLE:
        raise InputError(f"There is no criterion {criterion!r}.", f"Choose one of: {', '.join(TABLE)}.")
    return TABLE[criterion]


def _summed(
    units: int, axes: Iterable[Axis], values: Callable[[str], torch.Tensor | None]
) -> NDArray[np.float64]:
    """[units]: elements of `values(parameter)`, float64, summed over the positions that leave with a unit."""
    total = np.zeros(units, dtype=np.float64)
    for axis in axes:
        found = values(axis.parameter)
        if found is None:
            continue
        rows = found.movedim(axis.dim, 0).reshape(axis.size, -1).sum(dim=1)
        total += rows.cpu().numpy()[axis.positions].sum(axis=1)
    return total


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
    return _summed(group.units, group.axes, values)


__all__ = [
    "TABLE",
    "Criterion",
    "Evidence",
    "Need",
    "Scores",
    "find_criterion",
    "l1",
    "l2",
    "random",
    "taylor",
    "wanda",
]
