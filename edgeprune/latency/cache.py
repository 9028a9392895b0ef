"""Latency tables on disk: a fit of the same model on the same device measures its operators once.

In the user's cache folder ($XDG_CACHE_HOME/edgeprune/tables, by default ~/.cache), one file per device,
runtime and version, precision, threads, batch and model. A file appears whole or not at all. What is damaged
or was written by another version is measured again, and that is told. The run's ledger holds the table too:
a run that is resumed goes on with the one that it began with, whatever the cache holds by then.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import EdgepruneError
from edgeprune.files import write
from edgeprune.latency.curves import LatencyTable
from edgeprune.records.codec import dumps, from_json, loads, to_json

VERSION = 4  # of what a row means: a change of it makes all cached tables void


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Key:
    """All that a table depends on."""

    device: str  # its name, processor and system
    runtime: str  # with its version
    precision: str
    threads: int
    batch: int
    model: str  # hash of its operators, their shapes and the widths that were timed

    @property
    def path(self) -> Path:
        name = hashlib.sha256(dumps(to_json(self)).encode()).hexdigest()[:32]
        return folder() / f"{name}.json"


@dataclass(frozen=True)
class _Stored:
    version: int
    key: Key
    table: LatencyTable


def folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgeprune" / "tables"


def cached(key: Key, measure: Callable[[], LatencyTable], tell: Callable[[str], None]) -> LatencyTable:
    """The table from the cache, or measured and put there.

    A cache that cannot be written is told and costs nothing but the next measurement.
    """
    found = _read(key, tell)
    if found is not None:
        _log.info("latency table in %s: found in the cache, %s", key.precision, key.path.name)
        return found
    table = measure()
    _log.info("latency table in %s: measured, %d rows", key.precision, len(table.rows))
    try:
        key.path.parent.mkdir(parents=True, exist_ok=True)
        write(key.path, dumps(to_json(_Stored(VERSION, key, table))).encode())
    except (OSError, EdgepruneError) as error:
        tell(f"the latency table is not kept for the next fit: {error}")
    return table


def _read(key: Key, tell: Callable[[str], None]) -> LatencyTable | None:
    try:
        content = key.path.read_bytes()
    except OSError:
        return None
    try:
        stored = from_json(_Stored, loads(content, str(key.path)))
    except EdgepruneError as error:
        tell(f"the latency table {key.path} is damaged and is measured again ({error.what})")
        return None
    if stored.version != VERSION or stored.key != key or not stored.table.rows:
        tell(f"the latency table {key.path} is of another version and is measured again")
        return None
    return stored.table
