"""The answer of a fit in its run folder: result.json."""

from __future__ import annotations

from pathlib import Path

from edgeprune.errors import InputError
from edgeprune.files import write
from edgeprune.records.codec import dumps, from_json, loads, to_json
from edgeprune.records.trial import FitResult

RESULT = "result.json"


def save_result(result: FitResult, folder: Path) -> Path:
    """Write result.json, whole or not at all. Raises `InputError` when the folder cannot be written."""
    path = folder / RESULT
    write(path, (dumps(to_json(result)) + "\n").encode("ascii"))
    return path


def load_result(folder: Path) -> FitResult:
    """Read result.json of a run folder. Raises `InputError` when there is none or it is damaged."""
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
    return from_json(FitResult, loads(text, str(path)), f"{path}: ")
