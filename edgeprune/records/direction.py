"""Direction of a metric: the one place that knows which of two values is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Direction:
    """Direction in which a metric is better: up, or down for errors, perplexities and their like.

    A drop is a change for the worse whatever the metric's sign, and negative where the metric got better.
    """

    lower_is_better: bool = False

    @property
    def question(self) -> str:
        """Question to ask where all speaks for the other direction."""
        return (
            f"is {'more' if self.lower_is_better else 'less'} of it better "
            f"(Task.lower_is_better={not self.lower_is_better})?"
        )

    def cost(self, metric: float) -> float:
        """Metric as a cost, of which less is better; the metric of a cost, for it is its own inverse."""
        return metric if self.lower_is_better else -metric

    def pair(self, before: T, after: T) -> tuple[T, T]:
        """Two metrics, or arrays of scores, in the order in which the first minus the second is the drop."""
        return (after, before) if self.lower_is_better else (before, after)

    def drop(self, before: float, after: float) -> float:
        """Drop from one metric to another, in the metric's own unit."""
        first, second = self.pair(before, after)
        return first - second

    def change(self, drop: float) -> float:
        """Change of the metric, in its own sign, that a drop is."""
        return self.cost(drop)

    def limit(self, baseline: float, max_drop: float) -> float:
        """Worst metric that a drop of `max_drop` from the baseline's leaves."""
        return baseline + self.change(max_drop)

    def holds(self, metric: float, limit: float) -> bool:
        """Whether a metric is no worse than a limit; one that is not a number holds none."""
        return self.cost(metric) <= self.cost(limit)

    def better(self, one: float, other: float) -> bool:
        """Whether the first metric is better than the second."""
        return self.cost(one) < self.cost(other)


HIGHER = Direction()
