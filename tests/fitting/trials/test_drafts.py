"""Candidates that are measured by their shapes alone: once each, without a trace, and only as a help."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeprune.errors import DeviceError, DeviceLost, EdgepruneError
from edgeprune.fitting.trials.drafts import Drafts
from edgeprune.records.trial import Candidate

ONE = Candidate((("group", (0, 1)),), "int8", "minmax")
OTHER = Candidate((("group", (0, 1, 2)),), "int8", "minmax")
MEASURED: Any = object()


class DeviceSide:
    """Fails with `error` when a draft is written, and with `gone` when the device is looked for then."""

    def __init__(
        self, folder: Path, error: EdgepruneError | None = None, gone: DeviceError | None = None
    ) -> None:
        self.folder, self.error, self.gone = folder, error, gone
        self.written: list[Candidate] = []
        self.workshop, self.order = self, SimpleNamespace(device=self)

    def draft(self, candidate: Candidate, folder: Path) -> None:
        folder.mkdir()
        (folder / "float.onnx").write_bytes(b"half written")
        if self.error is not None:
            raise self.error
        self.written.append(candidate)

    def machine(self) -> None:
        if self.gone is not None:
            raise self.gone

    def measure(self, name: str, listen: Any, usual_ms: float | None) -> Any:
        assert (self.folder / name / "float.onnx").exists()
        return MEASURED


class Ledger:
    def once(self, name: str, work: Any, cls: type) -> Any:
        return work()


def drafts_on(bench: Any) -> Drafts:
    ledger: Any = Ledger()
    return Drafts(bench, ledger)


def listen(name: str, doing: str) -> Any:
    return lambda progress: None


def test_a_candidate_is_drafted_once_and_leaves_no_files(tmp_path: Path) -> None:
    bench = DeviceSide(tmp_path)
    drafts = drafts_on(bench)
    assert [drafts.make(each, listen, None) for each in (ONE, OTHER, ONE)] == [
        "draft-01",
        "draft-02",
        "draft-01",
    ]
    assert bench.written == [ONE, OTHER]
    assert drafts.measured == {"draft-01": MEASURED, "draft-02": MEASURED}
    assert (drafts.of(OTHER), drafts.of(Candidate((), "float32"))) == ("draft-02", None)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_drafted_says_why_and_is_not_tried_again(tmp_path: Path) -> None:
    bench = DeviceSide(tmp_path, EdgepruneError("No file of that shape.", "Report it."))
    drafts = drafts_on(bench)
    drafts.make(ONE, listen, None)
    bench.error = None
    draft = drafts.known[drafts.make(ONE, listen, None)]
    assert (draft.measurement, draft.reason) == (None, "No file of that shape.")
    assert not drafts.measured
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "gone"),
    [
        (DeviceLost("The connection was lost.", "Resume."), None),
        (DeviceError("It failed.", "Look."), DeviceError("Nobody answers.", "Resume.")),
    ],
    ids=["lost", "gone since"],
)
def test_a_device_that_is_gone_decides_nothing(
    error: DeviceError, gone: DeviceError | None, tmp_path: Path
) -> None:
    drafts = drafts_on(DeviceSide(tmp_path, error, gone))
    with pytest.raises(DeviceError, match=(gone or error).what):
        drafts.make(ONE, listen, None)
    assert not drafts.known
    assert not list(tmp_path.iterdir())
