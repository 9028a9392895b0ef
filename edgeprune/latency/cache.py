"""Cache of latency tables: fits of the same model on the same device measure its operators once.

Tables are in the user's cache folder ($XDG_CACHE_HOME/edgeprune/tables, by default ~/.cache), one file per
device, runtime and version, precision, threads, batch and model. A file appears whole or not at all. A table
that is damaged or of another version is measured again, with a message. The run's ledger contains the table,
too: a run that is resumed goes on with its first table, whatever the cache contains by then.
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

TABLE_VERSION = 4  # of the meaning of a row: a change makes all cached tables void


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Key:
    """Key of a table: everything that its rows depend on."""

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
    """Table from the cache, or measured and written there.

    A cache that cannot be written causes a message and another measurement in the next fit.
    """
    found = _read(key, tell)
    if found is not None:
        _log.info("latency table in %s: found in the cache, %s", key.precision, key.path.name)
        return found
    table = measure()
    _log.info("latency table in %s: measured, %d rows", key.precision, len(table.rows))
    try:
        key.path.parent.mkdir(parents=True, exist_ok=True)
        write(key.path, dumps(to_json(_Stored(TABLE_VERSION, key, table))).encode())
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
    if stored.version != TABLE_VERSION or stored.key != key or not stored.table.rows:
        tell(f"the latency table {key.path} is of another version and is measured again")
        return None
    return stored.table
