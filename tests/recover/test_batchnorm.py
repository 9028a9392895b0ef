"""Re-estimated BatchNorm statistics are those of the data, however it comes in batches."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from edgeprune.graph.capture import Captured, capture
from edgeprune.recover.batchnorm import reestimate


def two_norms() -> nn.Sequential:
    """Each norm follows a layer that was just cut, so its statistics are wrong by far."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3, stride=2), nn.BatchNorm2d(4)
    )
    for norm in (model[1], model[4]):
        norm.running_mean.fill_(5.0)
        norm.running_var.fill_(9.0)
    return model.eval()


def images(count: int, rows: int) -> list[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(rows, 2, 10, 10, generator=generator),) for _ in range(count)]


def statistics(module: nn.Module) -> dict[str, Tensor]:
    return {name: buffer for name, buffer in module.named_buffers() if "running" in name}


def reestimated(model: nn.Module, batches: list[tuple[Tensor, ...]]) -> Captured:
    captured = capture(model, batches[0]).copy()
    assert reestimate(captured, batches) == sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    return captured


def torchs_own(model: nn.Module, batches: list[tuple[Tensor, ...]]) -> nn.Module:
    """Training mode with `momentum=None`, which torch documents as the cumulative average over batches."""
    trained = copy.deepcopy(model)
    for module in trained.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    trained.train()
    with torch.no_grad():
        for inputs in batches:
            trained(*inputs)
    return trained


def test_one_batch_gives_exactly_what_torch_would_keep() -> None:
    model, batches = two_norms(), images(1, 16)
    ours, theirs = statistics(reestimated(model, batches).module), statistics(torchs_own(model, batches))
    assert set(ours) == set(theirs)
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected)


def test_many_batches_agree_with_torchs_cumulative_average() -> None:
    model, batches = two_norms(), images(8, 16)
    ours, theirs = statistics(reestimated(model, batches).module), statistics(torchs_own(model, batches))
    alone = [statistics(torchs_own(model, [batch])) for batch in batches]
    for norm, rows in (("1", 16 * 8 * 8), ("4", 16 * 3 * 3)):
        means, variances = (
            torch.stack([one[f"{norm}.running_{kind}"] for one in alone]) for kind in ("mean", "var")
        )
        mean, var = (ours[f"{norm}.running_{kind}"] for kind in ("mean", "var"))
        # With batches of one size the mean of means is the mean. Torch averages the variances too, which
        # leaves out how far the batches are apart; the law of total variance puts that back.
        torch.testing.assert_close(mean, theirs[f"{norm}.running_mean"])
        squares = ((rows - 1) * variances + rows * (means - mean).square()).sum(0)
        torch.testing.assert_close(var, squares / (8 * rows - 1))
        # For batches drawn alike that is little: a mean over 16 images varies by a 16th of what images do.
        torch.testing.assert_close(var, theirs[f"{norm}.running_var"], rtol=1 / 16, atol=0)


def test_uneven_batches_of_one_class_each_give_the_statistics_of_all_the_data() -> None:
    model = two_norms()
    (x,) = images(1, 12)[0]
    x = x + torch.arange(12).reshape(12, 1, 1, 1)  # sorted: every batch has a mean of its own
    captured = reestimated(model, [(x[:1],), (x[1:4],), (x[4:],)])
    with torch.no_grad():
        first = model[0](x).transpose(0, 1).flatten(1)
    found = statistics(captured.module)
    torch.testing.assert_close(found["1.running_mean"], first.mean(1))
    torch.testing.assert_close(found["1.running_var"], first.var(1))


def test_a_far_mean_does_not_drown_the_variance() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3)).eval()
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)) + 1000
    captured = capture(model, x).copy()
    reestimate(captured, [(x[:32],), (x[32:],)])
    torch.testing.assert_close(captured.module.get_buffer("0.running_var"), x.double().var(0).float())


def test_a_norm_at_two_places_gets_the_statistics_of_both() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.norm(x) + self.norm(y)

    x, y = torch.randn(8, 3), torch.randn(8, 3) * 2 + 3
    captured = capture(Twice().eval(), (x, y)).copy()
    assert reestimate(captured, [(x, y)]) == 1
    both = torch.cat([x, y])
    torch.testing.assert_close(captured.module.get_buffer("norm.running_mean"), both.mean(0))
    torch.testing.assert_close(captured.module.get_buffer("norm.running_var"), both.var(0))


def test_a_single_value_per_channel_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()
    captured = capture(model, torch.randn(2, 4)).copy()
    before = {name: buffer.clone() for name, buffer in captured.module.named_buffers()}
    assert reestimate(captured, [(torch.randn(1, 4),)]) == 0
    for name, buffer in captured.module.named_buffers():
        assert torch.equal(buffer, before[name])


@pytest.mark.parametrize("batches", [0, 3])
def test_no_data_or_no_norm_changes_nothing(batches: int) -> None:
    model = two_norms() if batches == 0 else nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()).eval()
    captured = capture(model, torch.randn(2, 2, 10, 10)).copy()
    before = {name: tensor.clone() for name, tensor in captured.module.state_dict().items()}
    assert reestimate(captured, images(batches, 4)) == 0
    for name, tensor in captured.module.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_norm_without_running_statistics_is_not_counted() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)).eval()
    captured = capture(model, torch.randn(2, 2, 10, 10)).copy()
    assert reestimate(captured, images(2, 4)) == 0


def test_a_norm_without_weights_is_reestimated_too() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2, affine=False)).eval()
    batches = images(1, 8)
    found = statistics(reestimated(model, batches).module)
    torch.testing.assert_close(found["0.running_mean"], batches[0][0].mean((0, 2, 3)))
