"""Variables of the environment are as they were, however the context ends."""

from __future__ import annotations

import os

import pytest

from edgeprune.environment import variable

NAME = "EDGEPRUNE_TESTED"


@pytest.mark.parametrize("before", [None, "", "old"])
def test_a_variable_has_its_value_inside_and_its_old_one_behind(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    if before is None:
        monkeypatch.delenv(NAME, raising=False)
    else:
        monkeypatch.setenv(NAME, before)

    with variable(NAME, "new"):
        assert os.environ[NAME] == "new"

    assert os.environ.get(NAME) == before


def test_an_error_inside_puts_it_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "old")

    with pytest.raises(ValueError, match="inside"), variable(NAME, "new"):
        raise ValueError("inside")

    assert os.environ[NAME] == "old"


def test_a_variable_that_the_context_removed_stays_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NAME, raising=False)

    with variable(NAME, "new"):
        del os.environ[NAME]

    assert NAME not in os.environ
