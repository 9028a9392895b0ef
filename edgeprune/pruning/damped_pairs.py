"""Damped least squares over pairs of rows: weights that take each x nearest to its y, near those of before.

    W' = (sum of y x^T + damping W) (sum of x x^T + damping)^-1

The damping is the one that does best on rows that it was not solved for. While there are fewer rows than
features the dual is solved, which gives the same weights from a matrix of rows by rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

DAMPINGS = (1e-4, 1e-2, 1.0)  # relative to the mean of the Gram matrix's diagonal
CHECKED = 4  # one sampled row in so many decides about the damping


@dataclass(frozen=True)
class PairRows:
    """Rows x [groups, n, features] with y [groups, n, rows] to come to, fewer than features."""

    x: torch.Tensor
    y: torch.Tensor

    def error(self, weight: torch.Tensor) -> float:
        """Squared error of the outputs, less a constant; infinite where it is not a number."""
        found = float((self.x @ weight.mT - self.y).square().sum() - self.y.square().sum())
        return found if math.isfinite(found) else math.inf

    def at(self, damping: float, before: torch.Tensor) -> torch.Tensor | None:
        """Weights by the dual of the normal equations, which is as small as there are rows.

        W + (y - W x)^T (x x^T + damping)^-1 x, the same as W' above.
        """
        kernel = self._kernel
        extra = damping * kernel.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None] / self.x.shape[2] + 1e-12
        factor, failed = torch.linalg.cholesky_ex(kernel + extra * torch.eye(kernel.shape[1]).double())
        if bool(failed.any()):
            return None
        missing = self.y - self.x @ before.mT
        return before + torch.cholesky_solve(missing, factor).mT @ self.x

    @cached_property
    def _kernel(self) -> torch.Tensor:
        return self.x @ self.x.mT

    def with_more(self, other: PairRows) -> PairRows:
        """Rows of both."""
        return PairRows(torch.cat([self.x, other.x], dim=1), torch.cat([self.y, other.y], dim=1))


@dataclass(frozen=True)
class PairSums:
    """Sums over rows: x x^T [groups, features, features] and y x^T [groups, rows, features]."""

    squares: torch.Tensor
    products: torch.Tensor

    @classmethod
    def of(cls, x: torch.Tensor, y: torch.Tensor) -> PairSums:
        # In float32, which takes half the time and errs by far less than the damping moves.
        return cls((x.mT @ x).double(), (y.mT @ x).double())

    def error(self, weight: torch.Tensor) -> float:
        """Squared error of the outputs, less a constant; infinite where it is not a number."""
        found = float((weight @ self.squares * weight).sum() - 2 * (weight * self.products).sum())
        return found if math.isfinite(found) else math.inf

    def at(self, damping: float, before: torch.Tensor) -> torch.Tensor | None:
        """Weights by the normal equations."""
        diagonal = self.squares.diagonal(dim1=1, dim2=2)
        extra = damping * diagonal.mean(dim=1)[:, None, None] + 1e-12
        eye = torch.eye(self.squares.shape[1]).double()
        factor, failed = torch.linalg.cholesky_ex(self.squares + extra * eye)
        if bool(failed.any()):
            return None
        return torch.cholesky_solve((self.products + extra * before).mT, factor).mT

    def with_more(self, other: PairSums) -> PairSums:
        """Sums over the rows of both."""
        return PairSums(self.squares + other.squares, self.products + other.products)


class DampedPairs:
    """Rows (x, y) of each group of a layer, those to solve from and those to check with.

    They are kept while there are fewer than features, and summed up from then on.
    before: [groups, rows, features], the weights that the layer has.
    """

    def __init__(self, before: torch.Tensor) -> None:
        self._before = before
        self._kept: list[tuple[tuple[torch.Tensor, torch.Tensor], ...]] = []
        self._sums: tuple[PairSums, ...] = ()
        self._counts = [0, 0]

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add x [n, groups, features] and y [n, groups, rows], in an order of no meaning."""
        checks = torch.arange(sum(self._counts), sum(self._counts) + len(x)) % CHECKED == 0
        parts = []
        for part, chosen in enumerate((~checks, checks)):
            parts.append((x[chosen].transpose(0, 1), y[chosen].transpose(0, 1).float()))
            self._counts[part] += int(chosen.sum())
        self._kept.append(tuple(parts))
        if self._sums or sum(self._counts) >= self._before.shape[2]:
            for kept in self._kept:
                found = tuple(PairSums.of(*part) for part in kept)
                pairs = zip(self._sums, found, strict=True)
                self._sums = tuple(one.with_more(other) for one, other in pairs) if self._sums else found
            self._kept = []

    def solved(self) -> torch.Tensor | None:
        """Weights [groups, rows, features]; None where those of before do best on the rows to check with."""
        if not all(self._counts):
            return None
        own, check = self._sums or (self._joined(0), self._joined(1))
        best, least = None, check.error(self._before)
        for damping in DAMPINGS:
            found = own.at(damping, self._before)
            if found is not None and (error := check.error(found)) < least:
                best, least = damping, error
        if best is None:
            return None
        return own.with_more(check).at(best, self._before)  # type: ignore[arg-type]

    def _joined(self, part: int) -> PairRows:
        x, y = (torch.cat([kept[part][at] for kept in self._kept], dim=1).double() for at in (0, 1))
        return PairRows(x, y)
