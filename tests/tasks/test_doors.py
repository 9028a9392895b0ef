"""A form of MODEL is one row: a toy form is read, refuses what it does not take, and is documented."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

from edgeprune.errors import InputError
from edgeprune.records.task import Task
from edgeprune.tasks import TaskOptions, forms, load_task
from edgeprune.tasks.forms import Form

ROOT = Path(__file__).parents[2]


def weighed(model: str, options: TaskOptions) -> Task:
    return Task(torch.nn.Identity(), torch.ones(1, 2), [], lambda predict: 1.0, metric=str(options.outputs))


TOY = Form(
    "STONE.abacus", "Beads on rods.", lambda model: model.endswith(".abacus"), weighed, frozenset({"outputs"})
)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Form:
    monkeypatch.setitem(forms.TABLE, TOY.spelling, TOY)  # type: ignore[arg-type]
    return TOY


def test_a_toy_form_is_read_with_the_options_that_it_takes(toy: Form) -> None:
    assert load_task("old.abacus", TaskOptions(outputs="values")).metric == "values"


def test_an_option_that_a_form_does_not_take_is_refused_with_the_forms_that_do(toy: Form) -> None:
    with pytest.raises(InputError) as refused:
        load_task("old.abacus", TaskOptions(data=Path("x.npz")))
    assert refused.value.what == "--data x.npz was given with old.abacus, and STONE.abacus takes none."
    assert refused.value.hint.startswith("Leave --data out, or give a MODEL that is MODEL.pt2")


def test_what_no_form_reads_is_told_every_spelling(toy: Form) -> None:
    with pytest.raises(InputError, match="is not a MODEL that edgeprune can read") as refused:
        load_task("nothing of the kind")
    assert all(spelling in refused.value.hint for spelling in forms.TABLE)


def test_every_row_takes_options_that_there_are() -> None:
    assert {name for row in forms.TABLE.values() for name in row.takes} <= set(vars(TaskOptions()))


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the docs are not beside the tests")
def test_the_document_tells_every_form(doors: ModuleType) -> None:
    assert doors.undocumented((row.spelling, row.says) for row in forms.TABLE.values()) == []
    assert doors.documented("Forms of MODEL") == list(forms.TABLE)


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the docs are not beside the tests")
def test_a_toy_form_is_missed_in_the_document(toy: Form, doors: ModuleType) -> None:
    missed = doors.undocumented((row.spelling, row.says) for row in forms.TABLE.values())
    assert missed == ["| `STONE.abacus` | Beads on rods. |"]
