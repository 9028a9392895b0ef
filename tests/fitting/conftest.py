"""What fits in these tests find must not depend on the processor that they run on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def exact_processor() -> Iterator[None]:
    """A processor with VNNI: 7-bit forms are not tried. Scripted devices compute exactly anyway."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("edgeprune.fitting.precision.saturates", lambda isa: False)
        yield
