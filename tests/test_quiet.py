"""Chosen loggers are muted, and only while it is asked."""

from __future__ import annotations

import logging
import warnings

import pytest

from edgeprune.quiet import quiet


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_only_the_named_loggers_and_their_children_are_muted(caplog: pytest.LogCaptureFixture) -> None:
    noisy, child, other = (logging.getLogger(name) for name in ("noisy", "noisy.child", "other"))
    with quiet("noisy"):
        noisy.warning("hidden")
        child.warning("hidden")
        other.warning("seen from another")
        child.error("seen as an error")
    noisy.warning("seen afterwards")
    assert said(caplog) == ["seen from another", "seen as an error", "seen afterwards"]


def test_a_library_that_sets_its_level_as_it_is_imported_is_muted_and_keeps_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    noisy = logging.getLogger("noisy.import")
    with quiet("noisy.import"):
        noisy.setLevel(logging.INFO)
        noisy.warning("hidden")
    assert noisy.level == logging.INFO
    noisy.info("seen")
    assert said(caplog) == ["seen"]


def test_an_error_leaves_the_loggers_as_they_were() -> None:
    logger = logging.getLogger("noisy.failing")
    with pytest.raises(ValueError, match="as it is"), quiet("noisy.failing"):
        raise ValueError("as it is")
    assert (logger.level, logger.filters) == (logging.NOTSET, [])


def test_warnings_are_muted_and_come_back() -> None:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        with quiet():
            warnings.warn("hidden", stacklevel=1)
        warnings.warn("seen", stacklevel=1)
    assert [str(each.message) for each in found] == ["seen"]
