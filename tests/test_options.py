"""One record of a fit's options: the command line and `edgeprune.fit` take theirs from it."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from inspect import Parameter, signature
from typing import Any

import pytest
from click import BadParameter

import edgeprune
from edgeprune.cli.fit import command
from edgeprune.errors import InputError
from edgeprune.options import BUDGET_LINES, FitOptions, takes
from edgeprune.records.machine import Budget

# Of the command line alone: what a task is made of, how a device is found, how the answer is printed.
OWN = {"model", "data", "outputs", "columns", "metric", "tokens", "seconds", "lab", "as_json", "quiet"}
# Of Python alone: a function, and the project file that the command line read.
PYTHON = {"listen", "project"}
DERIVED = {"out"}  # the command line makes it of MODEL


def test_the_command_line_has_every_option_of_the_record_and_its_defaults() -> None:
    given = command.make_context("fit", ["model.py"]).params
    record = {field.name: field.default for field in fields(FitOptions)}
    assert given.keys() - OWN == record.keys() - PYTHON
    told = {name: given[name] for name in record.keys() - PYTHON if given[name] not in (None, ())}
    assert told == {name: record[name] for name in told}
    assert all(record[name] is None for name in record.keys() - PYTHON - DERIVED - told.keys())


def test_fit_shows_every_option_of_the_record() -> None:
    task, *shown = signature(edgeprune.fit).parameters.values()
    assert task.name == "task"
    assert [(each.name, each.default) for each in shown] == [(f.name, f.default) for f in fields(FitOptions)]
    assert {each.kind for each in shown} == {Parameter.KEYWORD_ONLY}


def test_budget_lines_are_fields_of_a_budget_and_those_not_given_are_left_out() -> None:
    assert {field.name for field in fields(Budget)} == {
        *BUDGET_LINES,
        *("percentile", "max_drop_percent", "whole_ms"),
    }
    assert FitOptions().budget == {}
    assert FitOptions(latency_ms=(5.0, 3.0), max_drop=0.0).budget == {
        "latency_ms": (5.0, 3.0),
        "max_drop": 0.0,
    }


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (0.5, {"max_drop": 0.5}),
        ("0.5", {"max_drop": 0.5}),
        ("2%", {"max_drop_percent": 2.0}),
        (" 0.5 % ", {"max_drop_percent": 0.5}),
        ("0%", {"max_drop_percent": 0.0}),
    ],
)
def test_a_largest_drop_is_a_number_or_a_share(given: Any, line: dict[str, float]) -> None:
    assert FitOptions(max_drop=given).budget == line


@pytest.mark.parametrize("given", ["2", "0.5%"])
def test_the_command_line_takes_both(given: str) -> None:
    options = command.make_context("fit", ["model.py", "--max-drop", given]).params
    assert FitOptions(max_drop=options["max_drop"]) == FitOptions(max_drop=given)


@pytest.mark.parametrize("given", ["two", "2%%", "%", "-1%", "nan", "inf%", "2 percent"])
def test_what_is_no_largest_drop_is_refused_by_both(given: str) -> None:
    with pytest.raises(BadParameter, match="share as in 2%"):
        command.make_context("fit", ["model.py", f"--max-drop={given}"])
    with pytest.raises(InputError, match="--max-drop is"):
        FitOptions(max_drop=given)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"epochs": -1}, "--epochs is -1"),
        ({"epochs": 10_001}, "--epochs is 10001"),
        ({"epochs": 2.5}, r"--epochs is 2\.5"),
        ({"epochs": True}, "--epochs is True"),
        ({"seed": -1}, "--seed is -1"),
        ({"seed": 2**32}, "--seed is 4294967296"),
        ({"seed": 10**5000}, "--seed is a number of more than 40 digits"),
        ({"seed": float("nan")}, "--seed is nan"),
        ({"seed": None}, "--seed is None"),
        ({"batch": 0}, "--batch is 0"),
        ({"batch": 1.0}, r"--batch is 1\.0"),
        ({"threads": -2}, "--threads is -2"),
        ({"threads": 10**6}, "--threads is 1000000"),
        ({"device": ""}, "--device is '', which names no device"),
        ({"device": " \t"}, "names no device"),
        ({"max_drop": -0.1}, r"--max-drop is -0\.1"),
        ({"max_drop": [0.1]}, r"--max-drop is \[0\.1\]"),
        ({"latency_ms": 5.0, "speedup": 2.0}, "Both --latency-ms and --speedup"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_what_no_fit_can_be_asked_for_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        FitOptions(**options)


def test_the_ends_of_every_range_are_in_it() -> None:
    assert [FitOptions(seed=seed).seed for seed in (0, 2**32 - 1)] == [0, 2**32 - 1]
    assert (FitOptions(epochs=0).epochs, FitOptions(epochs=10_000).epochs) == (0, 10_000)


def test_options_stay_as_they_were_checked() -> None:
    options: Any = FitOptions()
    with pytest.raises(FrozenInstanceError):
        options.epochs = -1
    with pytest.raises(InputError, match="--epochs"):
        replace(options, epochs=-1)


def test_keywords_become_the_record() -> None:
    @takes(FitOptions)
    def asked(task: str, options: FitOptions) -> tuple[str, FitOptions]:
        return task, options

    assert asked("digits", seed=3) == asked(task="digits", seed=3) == ("digits", FitOptions(seed=3))  # type: ignore[call-arg]
    unknown: Any = {"epoch": 3}
    with pytest.raises(TypeError, match="epoch"):
        asked("digits", **unknown)
