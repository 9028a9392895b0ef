"""Silence of noisy libraries: their loggers and warnings are muted while they are called."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(*loggers: str, below: int = logging.ERROR) -> Iterator[None]:
    """Mute warnings, and records below a level of the named loggers and of their children.

    Other loggers of the process still speak, and errors still raise.
    """
    named = [logging.getLogger(name) for name in loggers]
    before = [logger.level for logger in named]

    def loud(record: logging.LogRecord) -> bool:
        return record.levelno >= below

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in named:
            logger.setLevel(below)
            logger.addFilter(loud)  # holds, too, where a library sets its level as it is imported here
        try:
            yield
        finally:
            for logger, level in zip(named, before, strict=True):
                logger.removeFilter(loud)
                if logger.level == below:
                    logger.setLevel(level)
