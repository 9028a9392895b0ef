"""The options `--verbose` and `--log-file`, which show or keep the log of edgeprune's modules.

Modules log to `logging.getLogger(__name__)`; without these options, and in a library, nothing of it is shown.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from edgeprune import __version__
from edgeprune.foreign import escaped

FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"

Command = TypeVar("Command", bound="Callable[..., Any] | click.Command")

_log = logging.getLogger(__name__)


class OneLine(logging.Formatter):
    """Formats a record as one line: control characters, which a file's name may bring, are escaped."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return escaped(super().formatMessage(record))


class StderrHandler(logging.Handler):
    """Prints records on the stderr of that moment, which a progress bar replaces while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            click.echo(self.format(record), err=True)
        except Exception:
            self.handleError(record)


def log_options(command: Command) -> Command:
    """Add `--verbose` and `--log-file` to a command; its function does not get them."""
    verbose = click.option(
        *("-v", "--verbose"),
        is_flag=True,
        expose_value=False,
        callback=_verbose,
        help="Show on stderr what is built, measured and decided.",
    )
    log_file = click.option(
        "--log-file",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        expose_value=False,
        callback=_log_file,
        help="Append the same to FILE, with every session on a device.",
    )
    return verbose(log_file(command))


def _verbose(context: click.Context, parameter: click.Parameter, given: bool) -> None:
    if given:
        _attach(context, "stderr", logging.INFO, StderrHandler)


def _log_file(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    try:
        _attach(context, str(path), logging.DEBUG, lambda: logging.FileHandler(path, encoding="utf-8"))
    except OSError as error:
        raise click.BadParameter(
            f"{path} cannot be written: {error.strerror}.", context, parameter
        ) from error
    python, system = platform.python_version(), platform.platform()
    _log.debug("edgeprune %s, Python %s, %s", __version__, python, system)


def _attach(context: click.Context, name: str, level: int, make: Callable[[], logging.Handler]) -> None:
    """Send edgeprune's log to a handler until the command ends; once, wherever the option is repeated."""
    attached = context.meta.setdefault(__name__, set())
    if name in attached:
        return
    handler = make()
    handler.setLevel(level)
    handler.setFormatter(OneLine(FORMAT))
    logger = logging.getLogger("edgeprune")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(level, before or level))
    attached.add(name)

    def detach() -> None:
        logger.removeHandler(handler)
        logger.setLevel(before)
        handler.close()

    context.find_root().call_on_close(detach)


__all__ = ["log_options"]
