"""Frames carry arrays unchanged, and what is not one is refused."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeprune.devices import frames

DTYPES = st.sampled_from(["<f4", "<f8", "<i8", "|i1", "|u1", "|b1", "<f2", "<i4"])


def frame(header: dict[str, Any], arrays: dict[str, Any]) -> bytes:
    return b"".join(bytes(part) for part in frames.encode(header, arrays))


@given(
    arrays=st.dictionaries(
        st.text(max_size=8), hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, min_side=0, max_dims=3))
    ),
    note=st.text(),
)
def test_frames_carry_any_arrays_unchanged(arrays: dict[str, Any], note: str) -> None:
    stream = io.BytesIO(frame({"do": "x", "note": note}, arrays) + frame({"do": "y"}, {}))
    decoded = frames.decode(stream.read)
    assert decoded is not None
    header, got = decoded
    assert header == {"do": "x", "note": note}
    assert list(got) == list(arrays)
    for name, value in arrays.items():
        assert got[name].dtype == value.dtype
        assert got[name].shape == value.shape
        assert got[name].tobytes() == value.tobytes()
    assert frames.decode(stream.read) == ({"do": "y"}, {})
    assert frames.decode(stream.read) is None


def test_arrays_that_are_not_contiguous_arrive_in_order() -> None:
    value = np.arange(12, dtype=np.float32).reshape(3, 4).T
    decoded = frames.decode(io.BytesIO(frame({}, {"a": value})).read)
    assert decoded is not None
    np.testing.assert_array_equal(decoded[1]["a"], value)


@pytest.mark.parametrize("cut", [9, 20, -1])
def test_a_stream_that_ends_inside_a_frame_is_an_error(cut: int) -> None:
    data = frame({"do": "x"}, {"a": np.ones(5)})
    with pytest.raises(EOFError, match="ended inside a frame"):
        frames.decode(io.BytesIO(data[:cut]).read)


@pytest.mark.parametrize(
    "data", [b"Welcome to Ubuntu", b"ep", frames.MAGIC + b"\xff\xff\xff\xff"], ids=["banner", "short", "huge"]
)
def test_what_is_not_a_frame_is_refused_with_its_first_bytes(data: bytes) -> None:
    with pytest.raises(frames.NotAFrame) as caught:
        frames.decode(io.BytesIO(data).read)
    assert caught.value.seen == data[:8]
