"""A loss that compares every row with every target is refused; what spreads on purpose is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeprune.errors import InputError
from edgeprune.meaning.broadcasts import refused_broadcasts

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    output: tuple[int, ...]
    target: tuple[int, ...]
    loss: Loss


SPREADS = {
    "mean squared error": Case((6, 1), (6,), F.mse_loss),
    "the other way round": Case((6,), (6, 1), F.l1_loss),
    "by keyword": Case((6, 1), (6,), lambda out, target: F.huber_loss(input=out, target=target)),
    "own arithmetic": Case((6, 1), (6,), lambda out, target: ((out - target) ** 2).mean()),
    "behind a sigmoid": Case((6, 1), (6,), lambda out, target: (out.sigmoid() - 2 * target).abs().mean()),
    "chosen places": Case((6, 1), (6,), lambda out, target: torch.where(target > 0, out, target).mean()),
    "maps without their channel": Case((6, 1, 4, 4), (6, 4, 4), F.mse_loss),
    "a reduction of its own": Case((6, 1), (6,), lambda out, t: F.mse_loss(out, t, reduction="none").sum()),
}
GOOD = {
    "one shape": Case((6, 1), (6, 1), F.mse_loss),
    "one weight for each row": Case((6, 3), (6, 1), lambda out, target: (out * target).mean()),
    "made alike": Case((6, 1), (6,), lambda out, target: F.mse_loss(out.squeeze(1), target)),
    "pairs on purpose": Case((6, 1), (6,), lambda out, target: (out - target[None, :]).abs().mean()),
    "of one row": Case((1, 1), (1,), F.mse_loss),
    "all pairs of an output": Case((6, 1), (6,), lambda out, target: (out - out.T).mean() + target.mean()),
    "as many classes as rows": Case((6, 6), (6,), lambda out, t: F.cross_entropy(out, (t > 0).long())),
    "products": Case((6,), (6,), lambda out, target: torch.outer(out, target).mean()),
}


def run(case: Case) -> None:
    output, target = torch.randn(case.output, requires_grad=True), torch.randn(case.target)
    with refused_broadcasts([output], [target]):
        case.loss(output, target)


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("name", SPREADS)
def test_rows_that_meet_the_targets_of_all_are_refused_with_their_shapes(name: str) -> None:
    case = SPREADS[name]
    with pytest.raises(InputError, match="every row with the targets of all") as caught:
        run(case)
    assert f"an output {list(case.output)} with targets {list(case.target)}" in caught.value.what
    assert "target.unsqueeze(1)" in caught.value.hint


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("name", GOOD)
def test_what_fits_or_is_spread_on_purpose_is_left(name: str) -> None:
    run(GOOD[name])
