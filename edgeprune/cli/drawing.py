"""Page beside a finished run, drawn in a process of its own, so that drawing cannot harm the answer."""

from __future__ import annotations

import logging
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import edgeprune
from edgeprune.cli.extras import REPORT, extras, pip_line
from edgeprune.foreign import last_lines
from edgeprune.results import PAGE

DRAWING_SECONDS = 120.0  # a first import of matplotlib looks at every font of the system

_log = logging.getLogger(__name__)


def draw_beside(folder: Path) -> str:
    """Draw the page of a finished run into its folder; the line that tells where it is, or why it is not.

    Empty where the extra that draws is not installed, which is logged.
    """
    missing = [module for module, extra in extras().items() if extra == REPORT and find_spec(module) is None]
    if missing:
        _log.info("%s is not drawn: %s is not installed; %s", PAGE, missing[0], pip_line(missing[0]))
        return ""
    place = folder / PAGE
    run = folder.resolve()
    # -m puts the working folder first on the path: give it one where only the package itself lies.
    home = Path(edgeprune.__file__).resolve().parent.parent
    line = [sys.executable, "-m", "edgeprune", "report", str(run), "--html", str(run / PAGE)]
    try:
        done = subprocess.run(
            line,
            cwd=home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DRAWING_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"note: {place} was not drawn within {DRAWING_SECONDS:g} s; edgeprune report draws it later"
    if done.returncode:
        told = [line for line in last_lines(done.stderr, 4) if line.startswith("error")]
        why = (told or last_lines(done.stderr, 1) or [f"exit code {done.returncode}"])[0]
        return f"note: {place} was not drawn: {why.removeprefix('error: ')}"
    return f"report: {place}"
