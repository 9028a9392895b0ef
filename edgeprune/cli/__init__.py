"""The command line: one file per verb, imported when the verb is called.

`edgeprune --help` therefore costs no import of torch or of a runtime, and a verb that cannot be imported
breaks no other. Each verb's module exposes `command`. Errors that edgeprune raises on purpose end here, as
two lines on stderr and the error's own exit code.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NoReturn

import click

from edgeprune import __version__
from edgeprune.cli.extras import missing
from edgeprune.cli.logs import log_options
from edgeprune.errors import EdgepruneError
from edgeprune.foreign import escaped

# The order is the order of --help: what people do first, then what they look up.
VERBS: Mapping[str, str] = MappingProxyType(
    {
        "init": "Write a project file, and a task to fill in.",
        "fit": "Find the least compressed model that fits a device's budget.",
        "bundle": "Pack a finished run for its device.",
        "validate": "Prove a bundle again, here or on lab devices.",
        "prune": "Prune a model, without a device or a search.",
        "inspect": "Show what can be pruned in a model, and what cannot and why.",
        "profiles": "List hardware profiles, or show one with its sources.",
        "targets": "List deployment targets, or show one.",
        "report": "Show the result of a finished run.",
        "why": "Say what holds the time of a finished run's model.",
        "doctor": "Say what works on this machine, and how to repair the rest.",
    }
)
INTERRUPTED = 130  # 128 + SIGINT, as shells count


class Verbs(click.Group):
    """A click group whose commands are imported one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a verb; None for a word that is not one. Raises `EdgepruneError`."""
        if cmd_name not in VERBS:
            return None
        module = f"edgeprune.cli.{cmd_name}"
        try:
            command = importlib.import_module(module).command
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            raise EdgepruneError(
                f"edgeprune {__version__} was installed without the verb {cmd_name!r}.",
                "Install a release that has it: pip install --upgrade edgeprune.",
            ) from error
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}.command is {type(command).__name__}, expected a click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0]
        if word not in VERBS and not word.startswith("-"):
            close = difflib.get_close_matches(word, VERBS, n=1)
            ctx.fail(f"There is no verb {word!r}." + (f" Did you mean {close[0]!r}?" if close else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            # A reader that left (`| head`) shows here, where click ends quietly, and not at shutdown.
            sys.stdout.flush()
        except EdgepruneError as error:
            _end(ctx, error)
        except ModuleNotFoundError as error:
            known = missing(error)
            if known is None:
                raise
            _end(ctx, known)
        except (
            SystemExit
        ) as error:  # click ends verbs otherwise: this is a task's, so what it imports is here
            from edgeprune.tasks.blame import exited

            _end(ctx, exited(error))
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)
        return result


def _end(ctx: click.Context, error: EdgepruneError) -> NoReturn:
    for begin, text in (("error", error.what), ("hint", error.hint)):
        # What devices and bundles say is tame already; paths and keys of files are the user's, and are not.
        click.echo("\n".join(escaped(line) for line in f"{begin}: {text}".split("\n")), err=True)
    ctx.exit(error.exit_code)


@click.command(
    "edgeprune",
    cls=Verbs,
    subcommand_metavar="VERB ...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@log_options
@click.version_option(__version__, prog_name="edgeprune", message="%(prog)s %(version)s")
def main() -> None:
    """Give edgeprune a trained PyTorch model, data and a device; it returns the least compressed version of
    that model that provably fits the device's latency, memory and accuracy budget."""


__all__ = ["VERBS", "main"]
