"""Records of earlier versions are read, as long as the schema is one that this edgeprune knows."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgeprune import devices
from edgeprune.bundle import open_bundle
from edgeprune.cli import main
from edgeprune.errors import InputError
from edgeprune.ledger import LEDGER_SCHEMA
from edgeprune.records.bundle import BUNDLE_SCHEMA, Manifest
from edgeprune.records.trial import FitResult
from edgeprune.results import RESULT, RESULT_SCHEMA, load_result

FIXTURES = Path(__file__).parents[1] / "fixtures"
RUN = FIXTURES / "v0" / "measured"
BUNDLE = RUN / "measured-tier1.edgeprune.zip"
PROMISED: dict[str, Any] = json.loads((FIXTURES / "stored_keys.json").read_text("utf-8"))


def edgeprune(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


def test_an_old_bundle_is_validated(scripted: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    device = scripted.ScriptedDevice(lambda artefact: 0.07)  # ms; 0.072 are allowed
    monkeypatch.setattr(devices, "open_device", lambda name, lab=None: device)
    done = edgeprune("validate", BUNDLE, "--json")
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)["devices"]
    outcomes = {check["number"]: check["outcome"] for check in found["checks"]}
    assert outcomes == {number: "skipped" if number == 6 else "passed" for number in range(1, 11)}


def test_an_old_result_is_reported() -> None:
    done = edgeprune("report", RUN, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["verdict"] == "misses"
    assert [(tier["name"], tier["verdict"]) for tier in told["tiers"]] == [
        ("1.3x", "fits"),
        ("1.8x", "misses"),
    ]
    assert [trial["name"] for trial in told["trials"]][-1] == "final-02"
    assert "final-01" in edgeprune("report", RUN).stdout


def test_an_old_run_is_packed_again(tmp_path: Path) -> None:
    done = edgeprune("bundle", RUN, "--tier", 1, "-o", tmp_path / "again.edgeprune.zip")
    assert done.exit_code == 0, done.output
    with open_bundle(tmp_path / "again.edgeprune.zip") as again, open_bundle(BUNDLE) as before:
        now, then = again.manifest, before.manifest
    assert (now.candidate, now.claim, now.budget) == (then.candidate, then.claim, then.budget)
    assert (now.inputs, now.outputs, now.artefact) == (then.inputs, then.outputs, then.artefact)


def test_a_renamed_field_is_read_by_its_earlier_name() -> None:
    stored = json.loads((RUN / RESULT).read_text("utf-8"))
    assert stored["trials"][-1]["candidate"]["after"] == "final-01"
    assert load_result(RUN).trials[-1].candidate.warm_start == "final-01"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param({"schema": RESULT_SCHEMA + 1, "new": 0}, "has schema 2, this .* up to 1", id="schema"),
        pytest.param({"new": 0}, "new is not a key of FitResult", id="key"),
    ],
)
def test_a_result_of_a_later_edgeprune_says_upgrade(
    tmp_path: Path, change: dict[str, int], sentence: str
) -> None:
    stored = json.loads((RUN / RESULT).read_text("utf-8"))
    (tmp_path / RESULT).write_text(json.dumps({**stored, **change}))
    with pytest.raises(InputError, match=sentence) as caught:
        load_result(tmp_path)
    assert "upgrade" in caught.value.hint.lower()


# -- what a schema promises


def test_the_listing_is_of_the_schemas_that_are_written() -> None:
    written = {"bundle": BUNDLE_SCHEMA, "ledger": LEDGER_SCHEMA, "result": RESULT_SCHEMA}
    assert PROMISED["schemas"] == written


def test_everything_that_was_stored_in_these_schemas_is_still_read(stored: ModuleType) -> None:
    found = {record.__name__: record for record in stored.records(Manifest, FitResult)}
    assert {
        name: broken
        for name, record in found.items()
        if (broken := stored.broken(record, PROMISED["records"].get(name, {})))
    } == {}


@dataclass(frozen=True)
class Now:
    kept: int
    renamed: str = field(metadata={"earlier": ("named",)})
    loose: float = 0.0


@dataclass(frozen=True)
class Breaking:
    """What a schema promised of `Now`, and the sentence about it."""

    promised: dict[str, str]
    sentence: str


KEPT = {"kept": "required", "named": "required", "renamed": "optional", "loose": "optional"}
BREAKING = {
    "a field that older records lack": Breaking({**KEPT, "kept": "optional"}, "kept is required, and older"),
    "a field that is gone": Breaking({**KEPT, "gone": "optional"}, "gone was stored, and nothing reads it"),
    "a new field": Breaking({key: KEPT[key] for key in KEPT if key != "loose"}, "loose is new"),
    "a new name": Breaking({key: KEPT[key] for key in KEPT if key != "renamed"}, "renamed is new"),
}


@pytest.mark.parametrize("case", BREAKING.values(), ids=BREAKING.keys())
def test_a_broken_promise_is_told(stored: ModuleType, case: Breaking) -> None:
    (told,) = stored.broken(Now, case.promised)
    assert told.startswith(case.sentence)


def test_a_renamed_field_keeps_its_promise(stored: ModuleType) -> None:
    assert stored.broken(Now, KEPT) == []
