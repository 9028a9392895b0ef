"""Command line of `python -m edgeprune`, as launchers of several processes start it."""

from __future__ import annotations

from edgeprune.cli import main

if __name__ == "__main__":
    main(prog_name="edgeprune")
