"""The errors that edgeprune raises on purpose.

    EdgepruneError          what went wrong, and what to do about it
    |-- InputError          the user's model, data, flag, file or bundle is wrong      exit code 2
    |   `-- BundleError     a bundle is not what its manifest says                     exit code 2
    |   `-- NothingToQuantise   no layer of the model can become INT8
    |-- DeviceError         the device, its runtime or the transport failed            exit code 1
    |   `-- DeviceLost      the way to the device is cut: a run waits to be resumed
    |   `-- DeviceBusy      other work took so much of the device that nothing is known   exit code 1
    |   `-- LostInt8        an engine built there runs INT8 layers in float            exit code 1
    `-- MissingExtraError   an optional dependency is not installed                    exit code 2

"Nothing fits" is a result, not an error: see `records.trial.Verdict` (exit code 3).
"""

from __future__ import annotations


class EdgepruneError(Exception):
    """An error with a sentence on what went wrong (`what`) and one on the next step (`hint`).

    `str(error)` is both: a notebook and a log show no more than that.
    """

    exit_code = 1

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what, hint)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what} {self.hint}".strip()


class InputError(EdgepruneError):
    """A model, task, flag or file of the user cannot be used; nothing was written."""

    exit_code = 2


class BundleError(InputError):
    """A bundle was refused by the check with the number `check`; nothing in it was used."""

    def __init__(self, check: int, what: str, hint: str) -> None:
        super().__init__(what, hint)
        self.args = (check, what, hint)
        self.check = check


class NothingToQuantise(InputError):
    """No layer of the model can become INT8: a search goes on in float."""


class DeviceError(EdgepruneError):
    """The device, its runtime or the way to it failed while working on valid input."""


class DeviceLost(DeviceError):
    """The connection to the device was cut; device and runtime may be as good as ever."""


class DeviceBusy(DeviceError):
    """Whatever was asked of the device was disturbed each time: nothing is decided, and the run can go on."""

    def __init__(self, what: str) -> None:
        super().__init__(
            what, "Stop what else runs on the device, then go on: the same command with --resume."
        )


class LostInt8(DeviceError):
    """The engine that a device built runs `layers`, which are INT8 in the artefact, in float.

    Every other INT8 layer was seen to run on integers; an engine of which that cannot be read is a plain
    `DeviceError`.
    """

    def __init__(self, layers: tuple[str, ...], what: str, hint: str) -> None:
        super().__init__(what, hint)
        self.args = (layers, what, hint)
        self.layers = layers


class MissingExtraError(EdgepruneError):
    """A library that this step needs is not installed; the hint is the line that installs it.

    Nothing was begun, so the exit code is that of a wrong input.
    """

    exit_code = 2
