"""Result of a fit on disk: result.json in its run folder."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from edgeprune.errors import InputError
from edgeprune.files import write
from edgeprune.records.codec import JSON, check_schema, dumps, from_json, loads, to_json
from edgeprune.records.trial import FitResult

RESULT = "result.json"
RESULT_SCHEMA = 1  # of result.json; docs/decisions/010-schemas.md says when it moves


def save_result(result: FitResult, folder: Path) -> Path:
    """Write result.json, whole or not at all. Raises `InputError` when the folder cannot be written."""
    path = folder / RESULT
    document = cast(dict[str, JSON], to_json(result))
    write(path, (dumps({"schema": RESULT_SCHEMA, **document}) + "\n").encode("ascii"))
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
    document = loads(text, str(path))
    check_schema(document, RESULT_SCHEMA, str(path))
    if isinstance(document, dict):
        document = {key: value for key, value in document.items() if key != "schema"}
    return from_json(FitResult, document, f"{path}: ")
