"""`edgeprune.prune`: a smaller model that is called, trained and saved like the one it came from."""

from __future__ import annotations

import copy
from collections import UserDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import (
    SUPPORTED_NODES,
    _deregister_pytree_node,
    register_pytree_node,
    tree_leaves,
    tree_structure,
)

import edgeprune
from edgeprune.errors import InputError
from edgeprune.pruning.criteria import TABLE
from edgeprune.pruning.once import Pruned, prune
from edgeprune.tasks.calibration import MOST_CALIBRATION_SAMPLES


class Small(nn.Module):
    """A residual block between two groups that can be pruned; `head` keeps its classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 20, 3, padding=1), nn.BatchNorm2d(20)
        self.body, self.back = nn.Conv2d(20, 30, 1), nn.Conv2d(30, 20, 3, padding=1)
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.back(torch.relu(self.body(x))))
        return self.head(x.mean((2, 3)))


def small() -> tuple[Small, Tensor]:
    torch.manual_seed(0)
    return Small().eval(), torch.randn(8, 2, 6, 6)


def prunable(pruned: Pruned) -> tuple[int, int]:
    """Parameters that could leave: before and after."""
    frozen = sum(parameter.size for parameter in pruned.frozen)
    return pruned.dense_params - frozen, pruned.params - frozen


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.7])
def test_the_ratio_of_prunable_parameters_leaves_and_not_one_unit_more(ratio: float) -> None:
    model, x = small()
    pruned = prune(model, x, ratio)
    before, after = prunable(pruned)
    assert after <= (1 - ratio) * before
    largest = (2 * 9 + 1) + 2 + 30 + (30 * 9 + 1) + 5  # one channel of stem, norm, body, back and head
    assert after > (1 - ratio) * before - largest
    assert pruned.params == sum(parameter.numel() for parameter in pruned.module.parameters())
    assert pruned.dense_params == sum(parameter.numel() for parameter in model.parameters())
    assert (pruned.macs < pruned.dense_macs) == (ratio > 0)


def test_nothing_pruned_is_the_same_function() -> None:
    model, x = small()
    pruned = prune(model, x, 0.0, calibration=[x])
    with torch.no_grad():
        torch.testing.assert_close(pruned.module(x), model(x))


def test_the_module_runs_on_any_batch_and_trains() -> None:
    model, x = small()
    module = prune(model, x, 0.5).module
    assert module(x[:1]).shape == (1, 5)
    module(torch.cat([x, x])).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in module.parameters())


def test_kept_is_the_recipe_by_group_in_ascending_order() -> None:
    model, x = small()
    pruned = prune(model, x, 0.5)
    assert set(pruned.kept) == {"stem", "body"}
    for name, units in pruned.kept.items():
        assert list(units) == sorted(set(units))
        assert pruned.module.get_parameter(f"{name}.weight").shape[0] == len(units)


def test_what_is_frozen_is_named_with_its_reason() -> None:
    model, x = small()
    frozen = {parameter.name: parameter for parameter in prune(model, x).frozen}
    assert set(frozen) == {"head.bias"}
    assert frozen["head.bias"].reason == "is an output of the model"


def test_the_users_model_is_left_as_it_was() -> None:
    model, x = small()
    model.train()
    weights = copy.deepcopy(model.state_dict())
    prune(model, x, 0.5, "taylor", [x])
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_calibration_data_brings_the_output_closer() -> None:
    model, x = small()
    with torch.no_grad():
        errors = [
            float((prune(model, x, 0.4, calibration=data).module(x) - model(x)).square().mean())
            for data in (None, [x[:4], x[4:]])
        ]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("criterion", [name for name in TABLE if "gradients" in TABLE[name].needs])
def test_gradients_are_those_of_the_models_own_objective(criterion: str) -> None:
    """A unit that no output hangs on leaves first, whatever the outputs are and without a label."""
    model, x = small()
    with torch.no_grad():
        model.back.weight[:, 7] = 0
    for outputs in ("classes", "values", None):
        pruned = prune(model, x, 0.05, criterion, [x[:4], x[4:]], outputs=outputs)
        assert 7 not in pruned.kept["body"]


def test_arrays_and_generators_serve_as_calibration_data() -> None:
    model, x = small()
    of_list = prune(model, x, 0.5, "taylor", [x]).module
    of_arrays = prune(model, x, 0.5, "taylor", (batch for batch in [x.numpy()])).module
    for one, other in zip(of_list.parameters(), of_arrays.parameters(), strict=True):
        assert torch.equal(one, other)


def test_endless_calibration_data_are_read_as_far_as_they_are_used(caplog: pytest.LogCaptureFixture) -> None:
    model, x = small()
    read = []

    def endless() -> Iterator[Tensor]:
        while True:
            read.append(len(x))
            yield x

    prune(model, x, 0.5, calibration=endless)
    assert sum(read) == MOST_CALIBRATION_SAMPLES + len(x)
    assert [message for message in caplog.messages if "the most that is read" in message]


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 20), nn.Linear(20, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.leave(torch.relu(self.enter(left) - self.enter(3 * right)))


def test_keyword_batches_are_matched_by_name() -> None:
    torch.manual_seed(0)
    model, left, right = Keywords(), torch.randn(16, 4), torch.randn(16, 4)
    example = {"left": left, "right": right}
    same, turned = (
        prune(model, example, 0.5, calibration=[batch]).module
        for batch in (example, {"right": right, "left": left})
    )
    with torch.no_grad():
        assert torch.equal(same(**example), turned(**example))


def test_a_saved_model_gives_the_same_answers_when_it_is_loaded(tmp_path: Path) -> None:
    model, x = small()
    pruned = prune(model, x, 0.5)
    path = pruned.save(tmp_path / "deep" / "small.pt2")
    loaded = torch.export.load(path).module()
    assert [entry.name for entry in path.parent.iterdir()] == ["small.pt2"]
    with torch.no_grad():
        torch.testing.assert_close(loaded(x[:3]), pruned.module(x[:3]))


def test_a_saved_model_holds_no_more_of_the_data_than_its_example(tmp_path: Path) -> None:
    model, x = small()
    many = x.repeat(10_000, *[1] * (x.ndim - 1))
    sizes = [
        prune(model, example, 0.5).save(tmp_path / f"{name}.pt2").stat().st_size
        for name, example in (("alone", x[:2].clone()), ("sliced", many[:2]))
    ]
    assert sizes[1] < 1.1 * sizes[0] < many.nbytes


def test_the_same_seed_prunes_the_same_units() -> None:
    model, x = small()
    kept = [prune(model, x, 0.5, "random", seed=seed).kept for seed in (1, 1, 2)]
    assert kept[0] == kept[1] != kept[2]


def test_the_public_face_is_this_function() -> None:
    assert edgeprune.prune is prune


@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_a_ratio_out_of_range_is_refused(ratio: float) -> None:
    with pytest.raises(InputError, match=f"The ratio is {ratio}"):
        prune(*small(), ratio)


def test_a_ratio_beyond_the_floor_says_how_far_it_goes() -> None:
    with pytest.raises(InputError, match=r"0\.99 cannot be reached: 0\.9\d is the most") as caught:
        prune(*small(), 0.99)
    most = float(caught.value.what.split(": ")[1][:4])
    before, after = prunable(prune(*small(), most - 0.01))
    assert after <= (1 - most + 0.01) * before


def test_a_model_without_prunable_parameters_is_refused() -> None:
    with pytest.raises(InputError, match="every parameter is frozen"):
        prune(nn.Linear(4, 3), torch.randn(2, 4))


@pytest.mark.parametrize("criterion", ["taylor", "L2"])
def test_a_criterion_that_cannot_score_is_refused(criterion: str) -> None:
    with pytest.raises(InputError, match=f"'{criterion}'"):
        prune(*small(), 0.5, criterion)


BAD_BATCHES = {
    "a labelled pair": (torch.zeros(2, 2, 6, 6), torch.zeros(2)),
    "another shape": torch.zeros(2, 3, 6, 6),
    "no batch dimension": np.zeros((2, 6, 6), np.float32),
    "nothing": (),
}


@pytest.mark.parametrize("name", BAD_BATCHES)
def test_a_batch_unlike_the_example_is_refused(name: str) -> None:
    model, x = small()
    with pytest.raises(
        InputError, match=r"Calibration batch 2.* the example (has 1 input|asks for \[N, 2, 6, 6\])"
    ):
        prune(model, x, 0.5, calibration=[x, BAD_BATCHES[name]])


def test_a_keyword_batch_with_other_names_is_refused() -> None:
    example = {"left": torch.randn(2, 4), "right": torch.randn(2, 4)}
    with pytest.raises(InputError, match="Calibration batch 1 has no 'right'; it has left, write"):
        prune(Keywords(), example, 0.5, calibration=[{"left": example["left"], "write": example["right"]}])


class Deep(nn.Module):
    """Two residual branches; the second changes nothing. Two heads of four."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.end = nn.Linear(4, 8), nn.Linear(8, 3)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.mix = nn.MultiheadAttention(8, 2, batch_first=True)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        x = x + self.first(x)
        x = x + self.second(x)
        return self.end(self.mix(x, x, x, need_weights=False)[0])


def test_the_branch_that_the_outputs_miss_least_is_dropped_first() -> None:
    torch.manual_seed(0)
    model, x = Deep(), torch.randn(4, 5, 4)
    pruned = prune(model, x, 0.0, branches=1)
    assert [name for name, units in pruned.kept.items() if not units] == ["branch:second"]
    assert not any(name.startswith("second") for name, _ in pruned.module.named_parameters())
    assert pruned.params == pruned.dense_params - 72
    with torch.no_grad():
        assert torch.allclose(pruned.module(x), model(x), atol=1e-6)


class Loud(nn.Module):
    """Two residual branches; the second writes much into the half of the stream that no output reads."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.end = nn.Linear(8, 8), nn.Linear(8, 3)
        self.quiet, self.loud = nn.Linear(8, 8), nn.Linear(8, 8)
        with torch.no_grad():
            self.quiet.weight.mul_(0.1)
            self.loud.weight.mul_(50)[:4] = 0
            self.loud.bias.zero_()
            self.end.weight[:, 4:] = 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        x = x + self.quiet(x)
        return self.end(x + self.loud(x))


def test_a_branch_counts_by_what_the_outputs_miss_and_not_by_how_far_it_turns_its_stream() -> None:
    torch.manual_seed(0)
    pruned = prune(Loud(), torch.randn(16, 8), 0.0, branches=1)
    assert [name for name, units in pruned.kept.items() if not units] == ["branch:loud"]


def test_widths_give_what_the_dropped_branches_leave_of_the_ratio() -> None:
    torch.manual_seed(0)
    pruned = prune(Deep(), torch.randn(4, 5, 4), 0.5, branches=1, calibration=[torch.randn(16, 5, 4)])
    before, after = prunable(pruned)
    assert 0.4 * before < after <= 0.5 * before


@pytest.mark.parametrize(("heads", "unit"), [("whole", 4), ("inside", 2)])
def test_attention_loses_whole_heads_or_gets_narrower_ones(heads: str, unit: int) -> None:
    torch.manual_seed(0)
    pruned = prune(Deep(), torch.randn(4, 5, 4), 0.4, heads=heads)  # type: ignore[arg-type]
    width = pruned.module.mix.out_proj.weight.shape[1]  # type: ignore[union-attr]
    assert width < 8
    assert width % unit == 0


def test_more_branches_than_there_are_are_refused() -> None:
    with pytest.raises(InputError, match="3 residual branches are to be dropped, and the model has 2"):
        prune(Deep(), torch.randn(4, 5, 4), 0.1, branches=3)


class Scores(NamedTuple):
    scores: Tensor
    more: dict[str, Tensor]


class Heads(UserDict[str, Tensor]):
    """A container that its library registers, as transformers does with its outputs."""


class Named(nn.Module):
    """Returns a container of a class of its own; `kind` makes it."""

    def __init__(self, kind: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.net, self.kind = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)), kind

    def forward(self, x: Tensor) -> object:
        return self.kind(self.net(x))


@pytest.fixture
def registered() -> Iterator[None]:
    register_pytree_node(
        Heads,
        lambda value: (list(value.values()), list(value)),
        lambda values, names: Heads(zip(names, values, strict=True)),
        serialized_type_name="tests.Heads",
    )
    yield
    if Heads in SUPPORTED_NODES:
        _deregister_pytree_node(Heads)


CONTAINERS: dict[str, tuple[Callable[[Tensor], object], object]] = {
    "a named tuple": (lambda x: Scores(x, {"half": x / 2}), (0, {"half": 0})),
    "a class of its own": (lambda x: Heads(first=x, second=2 * x), {"first": 0, "second": 0}),
    "a list in a dict": (lambda x: {"all": [x, x + 1]}, {"all": [0, 0]}),
}


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("container", CONTAINERS)
def test_outputs_in_any_container_are_returned_as_they_were_and_saved_in_plain_ones(
    container: str, tmp_path: Path
) -> None:
    kind, plain = CONTAINERS[container]
    x = torch.randn(3, 8)
    pruned = prune(Named(kind).eval(), x, 0.5)
    found = pruned.module(x)
    assert type(found) is type(kind(x))
    leaves = tree_leaves(found)
    path = pruned.save(tmp_path / "named.pt2")
    _deregister_pytree_node(Heads)  # as in another program
    loaded = torch.export.load(path).module()(x)
    assert tree_structure(loaded) == tree_structure(plain)
    for one, other in zip(tree_leaves(loaded), leaves, strict=True):
        assert torch.equal(one, other)


def test_what_was_saved_is_pruned_again(tmp_path: Path) -> None:
    model, x = small()
    once = prune(model, x, 0.3)
    loaded = torch.export.load(once.save(tmp_path / "once.pt2")).module()
    twice = prune(loaded, x[:1], 0.5)
    before, after = prunable(twice)
    assert (twice.dense_params, after <= before / 2) == (once.params, True)
    assert {name for name, _ in twice.module.named_parameters()} == {
        name for name, _ in model.named_parameters()
    }
    assert twice.module.train()(x).shape == (8, 5)
    with torch.no_grad():
        assert torch.equal(loaded(x), once.module(x)), "the loaded module is left as it was"


def test_a_model_in_training_mode_is_saved_in_evaluation_mode(tmp_path: Path) -> None:
    model, x = small()
    pruned = prune(model, x, 0.3)
    pruned.module.train()
    loaded = torch.export.load(pruned.save(tmp_path / "model.pt2")).module()
    assert pruned.module.training
    with torch.no_grad():
        assert torch.equal(loaded(x), pruned.module.eval()(x))


def test_what_is_shown_of_a_pruned_model_is_one_line() -> None:
    model, x = small()
    pruned = prune(model, x, 0.3)
    expected = f"Pruned({pruned.dense_params:,} -> {pruned.params:,} parameters, "
    assert repr(pruned).startswith(expected)
    assert repr(pruned).endswith(" frozen)")
    assert len(repr(pruned)) < 120


def test_a_model_of_one_row_is_pruned_and_answers_several_one_by_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.out = nn.Linear(8, 32), nn.Linear(32, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = len(x)
            return self.out(torch.relu(self.inner(x)).view(rows, -1))

    x = torch.randn(6, 8)
    pruned = prune(Counted().eval(), x[:2], ratio=0.5, calibration=[x])
    assert pruned.params < pruned.dense_params
    assert "the first of the example's 2" in pruned.fixed_batch
    assert pruned.fixed_batch in caplog.text
    assert pruned.module(x).shape == (6, 4)
    loaded = torch.export.load(pruned.save(tmp_path / "model.pt2")).module()
    again = prune(loaded, x[:1], ratio=0.1)
    assert "it was exported for one row" in again.fixed_batch
    assert again.module(x).shape == (6, 4)
    assert not prune(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), x[:1]).fixed_batch
