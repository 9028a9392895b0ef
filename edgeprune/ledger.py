"""Append-only ledger of a run: killed at any moment, a run loses at most its running step.

`ledger.jsonl` in the run folder. The first line is what was ordered; each further line is one finished
step: its key, its record, and the SHA-256 of the artefacts it wrote. A line is on the disk before the
next step starts, so a run that is resumed finds its finished steps and gives the same answer.

Lines are chained (`edgeprune.chain`): one that was edited, added, removed or moved is refused by its number.
A last line that is gone is a step that is done again.

    with Ledger.open(out, {"task": fingerprint, "seed": 0}, resume=False) as ledger:
        dense = ledger.once("dense", lambda: measure(...), Report, files=[out / "dense" / "model.onnx"])

One run at a time holds the folder (`edgeprune.run_folder`).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

from edgeprune.chain import Chain
from edgeprune.errors import InputError
from edgeprune.files import FULL, sha256, sweep, sync, writing
from edgeprune.records.codec import JSON, check_schema, dumps, from_json, is_required, loads, to_json
from edgeprune.run_folder import RunFolder

LEDGER_SCHEMA = 1  # of ledger.jsonl; docs/decisions/010-schemas.md says when it moves
NAME = "ledger.jsonl"

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Header:
    schema: int
    order: Any  # JSON
    chain: str | None = None  # SHA-256; None in ledgers of earlier versions


@dataclass(frozen=True)
class _HashedFile:
    path: str  # below the run folder
    sha256: str


@dataclass(frozen=True)
class _Entry:
    key: str
    record: Any  # JSON, decoded when somebody asks for it with its type
    files: tuple[_HashedFile, ...]
    chain: str | None = None


@dataclass(frozen=True)
class Noted:
    """Figure or word in an order that a ledger keeps and does not compare; None in runs of earlier versions.

    Earlier versions may have recorded it as it is, and compared it.
    """

    value: float | str | None = None


class Ledger:
    """Finished steps of one run, on disk; a context manager that holds the run folder. Use `Ledger.open`."""

    def __init__(self, held: RunFolder, listen: Callable[[str], None]) -> None:
        self._held = held
        self.folder = held.path
        self.path = held.path / NAME
        self._listen = listen
        self._entries: dict[str, _Entry] = {}
        self._earlier: set[str] = set()  # keys that were recorded before this run was resumed
        self._noted: dict[str, Noted] = {}
        self.grown = False  # whether a step was done since the run was begun or resumed
        self._chain = Chain()

    @classmethod
    def open(
        cls,
        folder: Path,
        order: Mapping[str, object],
        resume: bool,
        *,
        listen: Callable[[str], None] | None = None,
    ) -> Ledger:
        """Start a run in `folder`, or with `resume` continue the run that is there.

        order: all that the answer depends on, JSON values and records; a run is resumed only with an equal
            order. A recorded order is read by the codec's rules: a field that it lacks counts as its default,
            and so does a record whose fields all have one. So what is added to an order goes into a record.
            `Noted` figures are kept from the run's beginning, see `noted`.
        listen: gets a sentence when something recorded cannot be used and is done again.
        Raises `InputError` when the folder holds anything but a run, when another run holds the folder, when
        a run is there and `resume` is False, when it had another order, when the ledger is damaged, or when
        the folder cannot be written.
        """
        ledger = cls(RunFolder.hold(folder, NAME), listen or (lambda sentence: None))
        try:
            ledger._load(dict(order), resume)
        except BaseException:
            ledger.close()
            raise
        return ledger

    def seen(self, key: str) -> bool:
        """Whether the step `key` is recorded and its files are unchanged."""
        entry = self._entries.get(key)
        return entry is not None and self._changed(entry) is None

    def noted(self, key: str) -> Noted:
        """Figure of the order as the run began with it."""
        return self._noted[key]

    def once(
        self,
        key: str,
        work: Callable[[], T],
        cls: type[T],
        *,
        files: Sequence[Path] = (),
        lasts: Callable[[T], bool] = lambda value: True,
    ) -> T:
        """Recorded result of the step `key`; without one, the result of `work()`, recorded before it is used.

        cls: the record's type, as `records.codec` knows it.
        files: those that `work` writes below the run folder. When one is missing or was changed, the step is
            done again.
        lasts: False for a result that is asked for again when the run that recorded it is resumed, and with
            it all that was recorded about it: steps whose keys begin with this one.
        """
        entry = self._entries.get(key)
        if entry is not None and key in self._earlier and not lasts(self._decode(entry, cls)):
            _log.info("step %r: found in the ledger, and done again", key)
            self._forget(key)
            entry = None
        if entry is not None:
            changed = self._changed(entry)
            if changed is None:
                _log.info("step %r: found in the ledger", key)
                return self._decode(entry, cls)
            self._listen(f"{changed}, so {key!r} is done again.")
        started = time.monotonic()
        if not self._entries:
            self._held.will_write(files)
        with writing(self.folder, only=FULL):
            record = to_json(work())
        with writing(self.folder):
            listed = tuple(_HashedFile(self._below(path), _settled(path)) for path in files)
        entry = _Entry(key, record, listed)
        self._append(entry)
        self._entries[key] = entry
        self._earlier.discard(key)
        self.grown = True
        _log.info("step %r: done in %.2f s, %d files", key, time.monotonic() - started, len(files))
        # Decoded, not handed through: a run that is resumed sees the very same value.
        return self._decode(entry, cls)

    def _forget(self, key: str) -> None:
        """Leave out what was recorded earlier about a step that is done again."""
        about = {each for each in self._earlier if each == key or each.startswith(f"{key}-")}
        self._entries = {each: entry for each, entry in self._entries.items() if each not in about}
        self._earlier -= about

    def seal(self, key: str, record: str, files: Sequence[Path] = ()) -> None:
        """Record a text about the run's answer, and hashes of its files, for `sealed`; once for the same."""
        with writing(self.folder):
            listed = tuple(_HashedFile(self._below(path), _settled(path)) for path in files)
        known = self._entries.get(key)
        if known is None or (known.record, known.files) != (record, listed):
            self._entries[key] = _Entry(key, record, listed)
            self._append(self._entries[key])

    def close(self) -> None:
        """Release the run folder."""
        self._held.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, InputError) and not self._entries:
            self._held.discard()
        self.close()

    def _load(self, order: Mapping[str, object], resume: bool) -> None:
        with writing(self.path):
            text = self.path.read_bytes() if self.path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        lines = whole.splitlines(keepends=True)
        if lines and not resume:
            raise InputError(
                f"{self.folder} already holds a run.",
                "Add --resume to go on with it, or choose another --out.",
            )
        if lines:
            entries = list(_entries(self.path, lines, self._chain))
            self._check(lines[0], order)
            # A step that was done again is there twice: the last counts.
            self._entries = {entry.key: entry for entry in entries}
            self._earlier = set(self._entries)
        if len(whole) < len(text):
            self._listen(f"The last line of {self.path} was cut off while being written, so it is dropped.")
            self._cut(len(whole))
        if lines:
            with writing(self.folder):
                sweep(self.folder)
        if not lines:
            self._noted = {key: value for key, value in order.items() if isinstance(value, Noted)}
            self._append(_Header(LEDGER_SCHEMA, to_json(order, "order")))

    def _check(self, line: bytes, order: Mapping[str, object]) -> None:
        name = f"{self.path}, line 1"
        header = from_json(_Header, loads(line, name), f"{name}: ")
        read = _reread(header.order, order, f"{name}: order")
        self._noted = {
            key: from_json(Noted, read[key])
            for key, value in order.items()
            if isinstance(value, Noted) and isinstance(read, dict)
        }
        then, now = _flat(read), _flat(to_json({**order, **self._noted}, "order"))
        differ = [key for key in sorted({*then, *now}) if then.get(key) != now.get(key)]
        if differ:
            told = "; ".join(
                f"{key} was {then.get(key, 'absent')}, is now {now.get(key, 'absent')}" for key in differ[:5]
            )
            raise InputError(
                f"{self.folder} holds a run of another order: {told}.",
                "Resume with the same model, data and flags, or choose another --out.",
            )

    def _append(self, value: _Header | _Entry) -> None:
        line = self._chain.line(cast(dict[str, JSON], to_json(value)))
        self._held.check_lock()
        self._write(line)
        self._chain.add(line)

    def _write(self, line: bytes) -> None:
        with writing(self.path):
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
            try:
                before = os.fstat(handle).st_size
                try:
                    left = memoryview(line)
                    while left:
                        left = left[os.write(handle, left) :]
                    os.fsync(handle)
                except OSError:
                    os.ftruncate(handle, before)  # a full disk takes half a line: leave none of it
                    raise
            finally:
                os.close(handle)
            if before == 0:
                sync(self.folder)

    def _cut(self, size: int) -> None:
        with writing(self.path):
            os.truncate(self.path, size)
            sync(self.path)

    def _changed(self, entry: _Entry) -> str | None:
        for file in entry.files:
            path = self.folder / file.path
            if not os.path.isfile(path):  # False for a name that no system takes, too
                return f"{path} is missing"
            if sha256(path) != file.sha256:
                return f"{path} was changed after it was recorded"
        return None

    def _below(self, path: Path) -> str:
        return path.resolve().relative_to(self.folder.resolve()).as_posix()

    def _decode(self, entry: _Entry, cls: type[T]) -> T:
        return from_json(cls, entry.record, f"{self.path}, {entry.key}: ")


@dataclass(frozen=True)
class Sealed:
    """Record of a run's answer. files: SHA-256 by path below the run folder."""

    record: Any  # JSON
    files: Mapping[str, str]


def sealed(folder: Path, key: str) -> Sealed | None:
    """Record of `Ledger.seal` in a run folder; None in runs that are not finished or of earlier versions.

    Raises `InputError` when the ledger is damaged.
    """
    found = _steps(folder).get(key)
    return None if found is None else Sealed(found.record, {file.path: file.sha256 for file in found.files})


def recorded(folder: Path) -> Mapping[str, Any]:
    """JSON records of a run folder's steps by key, in order; none where there is no ledger.

    For a reader that holds no run. Raises `InputError` when the ledger is damaged.
    """
    return {key: entry.record for key, entry in _steps(folder).items()}


def _steps(folder: Path) -> dict[str, _Entry]:
    try:
        text = (folder / NAME).read_bytes()
    except OSError:
        return {}
    lines = text[: text.rfind(b"\n") + 1].splitlines(keepends=True)
    return {entry.key: entry for entry in _entries(folder / NAME, lines, Chain())}


def _entries(path: Path, lines: Sequence[bytes], chain: Chain) -> Iterator[_Entry]:
    """Steps of a ledger, every line of which is as it was written and goes on `chain`.

    Lines of earlier versions have no link, and none of them follows one that has. Raises `InputError` naming
    the line.
    """
    linked = False
    for number, line in enumerate(lines, 1):
        name = f"{path}, line {number}"
        document = loads(line, name)
        if number == 1:
            check_schema(document, LEDGER_SCHEMA, str(path))
        at = f"{name}: "
        read = from_json(_Header, document, at) if number == 1 else from_json(_Entry, document, at)
        linked = linked or read.chain is not None
        if linked and not chain.follows(line):
            raise InputError(
                f"{name} was edited, or a line before it was added, removed or moved.",
                "Restore the ledger as edgeprune wrote it, or begin again with another --out.",
            )
        chain.add(line)
        if isinstance(read, _Entry):
            yield read


def _settled(path: Path) -> str:
    sync(path)
    return sha256(path)


def _reread(then: JSON, now: object, path: str) -> JSON:
    """Recorded part `then` of an order as this edgeprune writes it, by the types of its counterpart `now`."""
    if isinstance(now, Noted) and not isinstance(then, dict):
        return to_json(from_json(Noted, {"value": then}, path))
    if isinstance(now, Mapping) and isinstance(then, dict):
        added = {
            key: to_json(type(value)())
            for key, value in now.items()
            if key not in then and _is_record(value) and not any(map(is_required, fields(value)))
        }
        known = {key: _reread(value, now.get(key), f"{path}.{key}") for key, value in then.items()}
        return {**known, **added}
    return to_json(from_json(type(now), then, path)) if _is_record(now) else then


def _is_record(value: object) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _flat(value: JSON, path: str = "") -> dict[str, str]:
    """`{"budget": {"latency_ms": 5.0}}` as `{"budget.latency_ms": "5.0"}`."""
    if isinstance(value, dict) and (value or not path):
        below = (_flat(item, f"{path}.{key}" if path else key) for key, item in value.items())
        return {key: text for part in below for key, text in part.items()}
    return {path: dumps(value)}


__all__ = ["LEDGER_SCHEMA", "Ledger", "Noted", "Sealed", "recorded", "sealed"]
