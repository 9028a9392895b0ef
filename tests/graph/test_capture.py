"""Capturing: the calling convention, the dynamic batch, and what is said when it fails."""

from __future__ import annotations

import collections
import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from edgeprune.errors import InputError
from edgeprune.graph import fixed_sizes
from edgeprune.graph.capture import capture, flatten, rebuilt
from edgeprune.graph.coupling import analyse
from edgeprune.graph.surgery import cut


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": self.left(left) + self.right(right), "left": left}


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:  # the line that the message names
            return x
        return -x


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_batch_is_dynamic_even_when_the_example_holds_one(size: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2)).eval()
    captured = capture(model, torch.randn(1, 3, 4, 4))
    x = torch.randn(size, 3, 4, 4)
    assert torch.equal(captured.run(x)[0], model(x))


def test_inputs_by_keyword_keep_their_names_and_outputs_their_structure() -> None:
    model, left, right = Two(), torch.randn(2, 4), torch.randn(2, 2)
    captured = capture(model, {"left": left, "right": right})
    assert captured.input_names == ("left", "right")
    assert torch.equal(captured.module(left=left, right=right)["sum"], model(left, right)["sum"])
    assert [tuple(output.shape) for output in captured.run(left, right)] == [(2, 3), (2, 4)]


def test_inputs_by_position_may_be_a_tuple() -> None:
    captured = capture(Two(), (torch.randn(2, 4), torch.randn(2, 2)))
    assert len(captured.inputs) == 2
    assert captured.module(torch.randn(3, 4), torch.randn(3, 2))["sum"].shape == (3, 3)


class Gathering(Two):
    def forward(self, left: torch.Tensor, **others: torch.Tensor) -> dict[str, torch.Tensor]:
        return super().forward(left, others["right"])


def test_inputs_that_forward_gathers_have_a_dynamic_batch_too() -> None:
    model, left, right = Gathering(), torch.randn(3, 4), torch.randn(3, 2)
    captured = capture(model, {"right": right[:1], "left": left[:1]})
    assert captured.input_names == ("right", "left")
    assert torch.equal(captured.run(right, left)[0], model(left, right=right)["sum"])
    assert "forward" not in vars(model)
    assert captured.with_module(captured.program().module()).input_names == captured.input_names


def test_capturing_leaves_the_model_in_the_mode_it_was_in() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout()).train()
    capture(model, torch.randn(2, 4))
    assert model.training


def test_a_model_that_does_not_export_is_refused_with_the_line_of_the_user() -> None:
    with pytest.raises(InputError, match="does not export") as caught:
        capture(Branching(), torch.randn(2, 3))
    assert "test_capture.py" in caught.value.what
    assert "if x.sum() > 0:" in caught.value.what
    assert "torch.cond" in caught.value.hint


class Reading(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * json.loads("no number")


def test_the_line_is_the_users_when_a_library_fails_below_it() -> None:
    with pytest.raises(InputError, match=r"test_capture\.py, line \d+: return x \* json\.loads"):
        capture(Reading(), torch.randn(2, 3))


def test_torchscript_is_refused_by_name() -> None:
    model = torch.nn.Linear(4, 3)
    with pytest.warns(DeprecationWarning, match="torch.jit.trace"):
        traced = torch.jit.trace(model, torch.randn(2, 4))
    with pytest.raises(InputError, match=r"is TorchScript \(TopLevelTracedModule\)"):
        capture(traced, torch.randn(2, 4))


@pytest.mark.parametrize("example", [None, [], {}, {"x": 1}, (torch.zeros(1), 2), "x"], ids=repr)
def test_an_example_that_is_not_tensors_is_refused(example: object) -> None:
    with pytest.raises(InputError, match="not tensors"):
        capture(nn.Linear(4, 3), example)


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        (torch.zeros(2, 4), r"\(1 by position\) does not fit Two.forward\(left, right\): missing .* 'right'"),
        (
            {"left": torch.zeros(2, 4), "right": torch.zeros(2, 2), "middle": torch.zeros(2, 2)},
            r"\(left, right, middle\) does not fit .* unexpected keyword argument 'middle'",
        ),
    ],
    ids=["too few", "too many"],
)
def test_an_example_that_forward_does_not_take_is_refused(example: object, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        capture(Two(), example)


@pytest.mark.parametrize("example", [torch.zeros(0, 4), torch.tensor(1.0)], ids=["empty", "scalar"])
def test_an_example_without_a_batch_is_refused(example: torch.Tensor) -> None:
    with pytest.raises(InputError, match="dimension 0 must be the batch"):
        capture(nn.Linear(4, 3), example)


Named = collections.namedtuple("Named", "logits states")


@dataclass
class Result:
    logits: torch.Tensor
    states: tuple[torch.Tensor, ...]
    loss: torch.Tensor | None = None


@pytest.mark.parametrize("kind", [Named, Result])
def test_a_class_of_the_users_comes_back_with_the_tensors_of_any_run(kind: type) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> object:
            return kind(logits=self.layer(x), states=(x, 2 * x))

    model, x = Model().eval(), torch.randn(3, 4)
    captured = capture(model, torch.randn(2, 4))
    for module in (captured.module, captured.copy().module):
        answer = module(x)
        assert type(answer) is kind
        assert torch.equal(answer.logits, model(x).logits)
        assert torch.equal(answer.states[1], 2 * x)
    plain = captured.program().module()(x)
    states = plain["states"] if kind is Result else plain[1]
    assert type(plain) is (dict if kind is Result else tuple)
    assert torch.equal(states[1], 2 * x)
    other = rebuilt(answer, [tensor + 1 for tensor in flatten(answer)])
    assert type(other) is kind
    assert torch.equal(other.states[0], x + 1)
    assert torch.equal(captured.run(x)[2], 2 * x)


class Rows(nn.Module):
    """Takes its batch for a number; `kind` says how."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.inner = kind, nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inner(x)
        if self.kind == "length":
            return x.view(len(x), 3, 1)
        if self.kind == "loop":
            return torch.stack([row + 1 for row in x])
        if self.kind == "number":
            return x.view(2, 3, 1)
        if self.kind == "branch":
            return x if x.shape[0] == 2 else -x
        return x + torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("length", "return x.view(len(x), 3, 1)"),
        ("loop", "return torch.stack([row + 1 for row in x])"),
        ("number", "return x.view(2, 3, 1)"),
        ("branch", "return x if x.shape[0] == 2 else -x"),
        ("constant", "return x + torch.zeros(2, 3)"),
    ],
)
def test_a_batch_that_is_taken_for_a_number_is_refused_with_the_line(kind: str, line: str) -> None:
    with pytest.raises(InputError, match="takes the batch, which may vary, for a number") as caught:
        capture(Rows(kind), torch.randn(1, 4))
    assert re.search(rf"test_capture\.py, line \d+: {re.escape(line)}\)\.$", caught.value.what)
    assert "x.shape[0]" in caught.value.hint


class OneRow(nn.Module):
    """Exports with one row alone, or computes something else with several; `kind` says how."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.inner, self.mid, self.out = (
            kind,
            nn.Linear(8, 16),
            nn.Linear(16, 16),
            nn.Linear(16, 3),
        )
        self.cell = nn.GRU(8, 16, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = len(x)
        if self.kind == "loop":
            return torch.stack([self.out(torch.relu(self.mid(torch.relu(self.inner(row))))) for row in x])
        if self.kind == "state":
            y, _ = self.cell(x[:, None], torch.zeros(1, int(x.shape[0]), 16))
            return self.out(y[:, -1])
        y = torch.relu(self.mid(torch.relu(self.inner(x))))
        if self.kind == "length":
            y = y.view(rows, -1)
        elif self.kind == "number":
            y = y.reshape(1, -1)
        elif self.kind == "positions":
            y = y[torch.arange(rows)]
        elif self.kind == "einsum":
            y = torch.einsum("bc,bd->dc", y, torch.eye(rows))
        return self.out(y)


KINDS = ("loop", "state", "length", "number", "positions", "einsum")


@pytest.mark.parametrize("kind", KINDS)
def test_where_queries_of_one_row_are_asked_such_a_model_is_captured_for_one(
    kind: str, references: ModuleType
) -> None:
    model, x = OneRow(kind).eval(), torch.randn(5, 8)
    captured = capture(model, x[:1], rows=1)
    assert captured.fixed_batch
    with torch.no_grad():
        wanted = torch.cat([model(row[None]) for row in x])
        assert torch.allclose(captured.run(x)[0], wanted, atol=1e-6)
        assert torch.allclose(captured.module(x), wanted, atol=1e-6)
        coupling = analyse(captured)
        assert sum(group.units for group in coupling.groups) >= 16
        assert not coupling.unknown
        kept = references.random_kept(coupling, 0, 0.5)
        pruned = cut(captured, coupling, kept)
        exact = references.zeroed(captured, coupling, kept)
        assert references.difference(pruned.run(x), exact.run(x)) < 1e-5
    again = capture(pruned.program().module(), x, rows=1)
    assert again.fixed_batch == "it was exported for one row"
    assert torch.equal(again.run(x)[0], pruned.run(x)[0])


def test_where_other_queries_are_asked_the_refusal_names_the_line_and_the_batch_that_works() -> None:
    for rows, hint in ((8, "--batch 1"), (None, "x.shape[0]")):
        with pytest.raises(InputError, match="takes the batch, which may vary, for a number") as caught:
            capture(OneRow("length"), torch.randn(2, 8), rows)
        assert "y = y.view(rows, -1)" in caught.value.what or "rows = len(x)" in caught.value.what
        assert hint in caught.value.hint
    with pytest.raises(InputError, match="exported for one row") as caught:
        capture(capture(OneRow("length"), torch.randn(2, 8), 1).module, torch.randn(2, 8), 8)
    assert "--batch 1" in caught.value.hint


def test_what_does_not_export_for_one_row_either_is_refused_as_before() -> None:
    with pytest.raises(InputError, match=r"does not export \(.*test_capture\.py") as caught:
        capture(Branching(), torch.randn(1, 4), rows=1)
    assert "--batch" not in caught.value.hint


def test_another_torch_that_tells_no_lines_still_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed_sizes, "_HOOK", "of_another_torch")
    with pytest.raises(InputError, match="specialized it to be a constant"):
        capture(Rows("length"), torch.randn(2, 4))


def test_the_line_is_a_librarys_where_none_is_the_users() -> None:
    folder = Path(torch.__file__).parents[1]
    ours, theirs = str(Path(fixed_sizes.__file__)), str(folder / "library" / "model.py")
    torchs = str(Path(torch.__file__))
    assert (
        fixed_sizes.place([("/home/task.py", 3), (ours, 1), (theirs, 7), (torchs, 9)])
        == f" ({theirs}, line 7: )"
    )
    found = fixed_sizes.place([(ours, 1), (theirs, 3), ("/home/net.py", 5), (theirs, 7)])
    assert found == f" (/home/net.py, line 5: ; in {theirs}, line 7: )", "and what it called of a library"
    assert fixed_sizes.place([("/home/task.py", 3), (ours, 1), (torchs, 9)]) == ""
