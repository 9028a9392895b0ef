"""What fits in these tests find must not depend on the processor that they run on."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def exact_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor with VNNI: 7-bit forms are not tried. Scripted devices compute exactly anyway."""
    monkeypatch.setattr("edgeprune.fitting.precision.saturates", lambda isa: False)
