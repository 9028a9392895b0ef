"""Drafts: candidates with real shapes and meaningless weights, measured before anything is built.

How long a query takes, what it holds in memory and how large its file is follow from shapes and precisions,
not from what the weights are. So a candidate is first written with weights and ranges that mean nothing, and
measured: neither reconstructed nor calibrated nor evaluated, and where all branches stay not even exported.
A draft is no trial: it proves nothing, and a result shows it only beside what was built.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from edgeprune.errors import DeviceBusy, DeviceLost, EdgepruneError
from edgeprune.fitting.trials.sessions import DeviceSide
from edgeprune.ledger import Ledger
from edgeprune.measure import Progress
from edgeprune.records.trial import Candidate, DraftReport, Measurement


@dataclass(frozen=True)
class Draft:
    """The ledger's record of a draft. measurement: None, and the reason, where it could not be made."""

    candidate: Candidate
    measurement: Measurement | None
    reason: str = ""


class Drafts:
    """Drafts of a run, by name."""

    def __init__(self, device_side: DeviceSide, ledger: Ledger) -> None:
        self._device_side = device_side
        self._ledger = ledger
        self.known: dict[str, Draft] = {}

    @property
    def measured(self) -> dict[str, Measurement]:
        """Measurements of the drafts that could be made."""
        return {
            name: draft.measurement for name, draft in self.known.items() if draft.measurement is not None
        }

    def unbuilt(self, tested: Iterable[Candidate]) -> tuple[DraftReport, ...]:
        """Drafts that were measured and are of none of the candidates."""
        built = {self.of(candidate) for candidate in tested}
        return tuple(DraftReport(name, each) for name, each in self.measured.items() if name not in built)

    def of(self, candidate: Candidate) -> str | None:
        """The draft of this candidate, if there is one."""
        shown = _shown(candidate)
        return next((name for name, draft in self.known.items() if _shown(draft.candidate) == shown), None)

    def make(
        self,
        candidate: Candidate,
        listen: Callable[[str, str], Callable[[Progress], None]],
        usual_ms: float | None,
    ) -> str:
        """Name of a candidate's draft, which is written and measured unless there is one.

        listen: (name, what is done) -> what hears of its progress. usual_ms: as for `DeviceSide.measure`.
        Raises `DeviceError` when the device is gone or busy: then nothing is decided, and the run can go on.
        """
        name = self.of(candidate) or f"draft-{len(self.known) + 1:02}"
        if name not in self.known:
            found = self._ledger.once(
                name,
                lambda: self._measured(name, candidate, listen(name, "measuring shapes"), usual_ms),
                Draft,
            )
            # One that was recorded before may be of a run that recovered otherwise.
            self.known[name] = replace(found, candidate=replace(found.candidate, recover=candidate.recover))
        return name

    def _measured(
        self, name: str, candidate: Candidate, listen: Callable[[Progress], None], usual_ms: float | None
    ) -> Draft:
        folder = self._device_side.folder / name
        try:
            self._device_side.workshop.draft(candidate, folder)
            return Draft(candidate, self._device_side.measure(name, listen, usual_ms))
        except (DeviceBusy, DeviceLost):
            raise
        except EdgepruneError as error:
            self._device_side.order.device.machine()  # raises when it is the device that fails
            return Draft(candidate, None, error.what)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _shown(candidate: Candidate) -> Candidate:
    """Candidate as far as shapes show it: how it recovers they do not."""
    return replace(candidate, recover="none")
