"""Result of a fit on disk: result.json in its run folder, sealed by the ledger beside it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import cast

from edgeprune.errors import InputError
from edgeprune.files import sha256, write
from edgeprune.ledger import Ledger, Sealed, sealed
from edgeprune.records.bundle import CARRIED, GOLDEN
from edgeprune.records.codec import JSON, check_schema, dumps, from_json, loads, to_json
from edgeprune.records.domain import result_problems
from edgeprune.records.trial import FitResult

RESULT = "result.json"
PAGE = "report.html"  # beside it, where it was drawn
_HINT = "Restore it, or write it again: `edgeprune fit ... --resume` with the same model, data and flags."
OCCASIONAL = ("seconds", "remarks", "occasion")  # keys of a result that tell of a run, not of its answer
RESULT_SCHEMA = 1  # of result.json; docs/decisions/010-schemas.md says when it moves


def save_result(result: FitResult, folder: Path, ledger: Ledger | None = None) -> Path:
    """Write result.json, whole or not at all. Raises `InputError` when the folder cannot be written.

    ledger: records the answer and its golden vectors first, so that what was edited later is known.
    """
    path = folder / RESULT
    document = cast(dict[str, JSON], to_json(result))
    if ledger is not None:
        chosen = {result.chosen.artefact, *(tier.chosen.artefact for tier in result.tiers)}
        golden = [(folder / artefact).parent / GOLDEN for artefact in sorted(chosen)]
        carried = [place for place in sorted((folder / CARRIED).rglob("*")) if place.is_file()]
        ledger.seal(RESULT, _seal(document), [*(place for place in golden if place.is_file()), *carried])
    write(path, (dumps({"schema": RESULT_SCHEMA, **document}) + "\n").encode("ascii"))
    return path


def load_result(folder: Path) -> FitResult:
    """Read result.json of a run folder.

    Raises `InputError` when there is none, when it is damaged, or when its figures are not those that the
    ledger recorded.
    """
    path = folder / RESULT
    try:
        text = path.read_bytes()
    except OSError as error:
        unfinished = (folder / "ledger.jsonl").exists()
        raise InputError(
            f"{path} cannot be read: {error.strerror}.",
            "The run is not finished: go on with `edgeprune fit ... --resume`."
            if unfinished
            else "Give the --out folder of a finished `edgeprune fit`.",
        ) from error
    document = loads(text, str(path))
    check_schema(document, RESULT_SCHEMA, str(path))
    if isinstance(document, dict):
        document = {key: value for key, value in document.items() if key != "schema"}
    result = from_json(FitResult, document, f"{path}: ")
    for problem in result_problems(result):
        raise InputError(f"{path}: {problem}.", _HINT)
    found = sealed(folder, RESULT)
    if found is not None and found.record != _seal(cast(dict[str, JSON], document)):
        raise InputError(f"{path} is not what the run answered: it was edited, or is of another run.", _HINT)
    return result


def check_golden(folder: Path, golden: Path) -> None:
    """Refuse golden vectors of a run that are not those that its ledger recorded. Raises `InputError`."""
    found = sealed(folder, RESULT) or Sealed(None, {})
    recorded = found.files.get(golden.relative_to(folder).as_posix())
    if recorded is not None and golden.is_file() and sha256(golden) != recorded:
        raise InputError(f"{golden} was changed after the run wrote it.", _HINT)


def check_carried(folder: Path) -> None:
    """Refuse files for the bundle that are not those that the ledger recorded. Raises `InputError`."""
    found = sealed(folder, RESULT) or Sealed(None, {})
    recorded = {name: hash_ for name, hash_ in found.files.items() if name.startswith(f"{CARRIED}/")}
    places = [place for place in sorted((folder / CARRIED).rglob("*")) if not place.is_dir()]
    there = {place.relative_to(folder).as_posix(): place for place in places}
    for name in sorted({*recorded, *there}):
        if name not in there or sha256(there[name]) != recorded.get(name):
            raise InputError(f"{folder / name} was changed after the run wrote it.", _HINT)


def _seal(document: dict[str, JSON]) -> str:
    """SHA-256 of a result, but for what a run that is resumed at its end has others of."""
    text = dumps({key: value for key, value in document.items() if key not in OCCASIONAL})
    return hashlib.sha256(text.encode("ascii")).hexdigest()
