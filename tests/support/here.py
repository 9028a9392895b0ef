"""This machine as a device for bundles whose golden outputs are exact, as those of a scripted device are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edgeprune.detect import host, saturates
from edgeprune.devices import Load
from edgeprune.devices.local import LocalDevice
from edgeprune.devices.session import AgentSession


class Here(LocalDevice):
    """A local device that computes exactly where 8-bit products of ONNX Runtime would saturate."""

    def start(self, load: Load, **more: Any) -> AgentSession:
        exact = load.runtime == "onnxruntime" and saturates(host().isa or ())
        return super().start(replace(load, exact=exact), **more)
