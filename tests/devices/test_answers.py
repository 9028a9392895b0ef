"""Whatever a device answers, a reader gives values that can be trusted, or a DeviceError."""

from __future__ import annotations

import io
import json
import math
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.devices import answers, frames
from edgeprune.devices.answers import Reply
from edgeprune.errors import DeviceError
from edgeprune.records.bundle import Port
from tests.support.liar import HONEST

DUE = (Port("output", "float32", (1, 3)),)
READERS: Mapping[str, Callable[[Reply], object]] = {
    "machine": answers.read_machine,
    "load": answers.read_loaded,
    "predict": lambda reply: answers.read_outputs(reply, ("output",), DUE),
    "warm_up": answers.read_warm_up,
    "time": lambda reply: answers.read_block(reply, 1, 0.0),
    "operators": answers.read_operators,
    "memory": answers.read_memory,
    "state": answers.read_state,
    "failure": answers.read_failure,
}
OPERATOR = {"name": "a", "kind": "Conv", "ms": 0.1, "inputs": [[1, 3]], "outputs": [[1]], "sources": ["b"]}
ANSWERS: Mapping[str, Any] = {
    **HONEST,
    "operators": {"operators": [OPERATOR]},
    "failure": {"error": "lost int8", "what": "why", "layers": ["a"]},
}
ARRAYS = {
    "0": np.zeros((1, 3), np.float32),
    "ms": np.ones(4),
    "huge": np.full(3, np.inf),
    "none": np.zeros((0, 3), np.int8),
    "few": np.zeros(0),
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def spoiled(value: Any, wild: Any, numbers: random.Random) -> Any:
    """The same answer with one value somewhere in it replaced, or left out."""
    if isinstance(value, dict) and value and numbers.random() < 0.8:
        key = numbers.choice(sorted(value))
        return {**value, key: spoiled(value[key], wild, numbers)}
    if isinstance(value, list) and value and numbers.random() < 0.8:
        at = numbers.randrange(len(value))
        return [*value[:at], spoiled(value[at], wild, numbers), *value[at + 1 :]]
    return wild


def texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for pair in value.items() for item in pair for text in texts(item)]
    if isinstance(value, (tuple, list)):
        return [text for item in value for text in texts(item)]
    return (
        [text for item in vars(value).values() for text in texts(item)] if hasattr(value, "__dict__") else []
    )


@pytest.mark.parametrize("request_", READERS, ids=str)
@settings(max_examples=120)
@given(wild=JSON, seed=st.integers(0, 1 << 30))
def test_no_answer_raises_anything_but_a_device_error(request_: str, wild: Any, seed: int) -> None:
    numbers = random.Random(seed)
    header = spoiled(ANSWERS[request_], wild, numbers)
    header = header if isinstance(header, dict) else {}
    arrays = {
        name: ARRAYS[numbers.choice(list(ARRAYS))] for name in numbers.sample(["0", "1", "ms", "waited"], 3)
    }
    try:
        found = READERS[request_](Reply("bench", request_, header, arrays, 1.0))
    except DeviceError as error:
        found = error.what
    assert all(text.isprintable() for text in texts(found))
    assert not isinstance(found, str) or found.startswith(f"Device bench answered {request_!r} with ")


@pytest.mark.parametrize("request_", sorted(set(READERS) - {"predict", "time"}))
def test_an_honest_answer_is_read(request_: str) -> None:
    assert READERS[request_](Reply("bench", request_, ANSWERS[request_], {}, 1.0)) is not None


@given(
    times=st.lists(st.floats(), min_size=1, max_size=5),
    runs=st.integers(1, 5),
    seconds=st.floats(0, 10),
    waited=st.floats(0, 10),
)
def test_times_that_are_believed_are_positive_and_no_longer_than_the_host_waited(
    times: list[float], runs: int, seconds: float, waited: float
) -> None:
    reply = Reply("bench", "time", HONEST["time"], {"ms": np.array(times), "waited": np.zeros(0)}, waited)
    try:
        found = answers.read_block(reply, runs, seconds).ms
    except DeviceError:
        return
    assert len(found) >= runs
    assert all(math.isfinite(ms) and ms > 0 for ms in found)
    assert sum(found) <= 1e3 * waited * answers.CLOCK_FACTOR + answers.CLOCK_MS + 1e-6


def test_outputs_of_which_nothing_is_known_are_numbers_at_least() -> None:
    reply = Reply("bench", "predict", {}, {"0": np.zeros((7, 2), np.complex64)}, 1.0)
    with pytest.raises(DeviceError, match=r"array '0' = 'complex64 \[7, 2\]'"):
        answers.read_outputs(reply, ("output",), ())
    known = Reply("bench", "predict", {}, {"0": np.zeros((7, 2), np.float16)}, 1.0)
    assert [array.shape for array in answers.read_outputs(known, ("output",), ())] == [(7, 2)]


@settings(max_examples=300)
@given(st.binary(max_size=80), st.integers(0, 1 << 30), JSON)
def test_no_bytes_raise_anything_but_that_they_are_no_frame(junk: bytes, seed: int, wild: Any) -> None:
    numbers = random.Random(seed)
    listed = spoiled([{"name": "a", "dtype": "<f4", "shape": [2, 1]}], wild, numbers)
    text = json.dumps({"do": 1, "arrays": listed}).encode()
    whole = bytearray(frames.MAGIC + len(text).to_bytes(4, "big") + text + bytes(8))
    for _ in range(numbers.randrange(4)):
        whole[numbers.randrange(len(whole))] ^= 1 << numbers.randrange(8)
    for data in (bytes(whole), bytes(whole[: numbers.randrange(len(whole))]) + junk, junk):
        try:
            found = frames.decode(io.BytesIO(data).read, most=1 << 16)
        except (frames.NotAFrame, EOFError):
            continue
        if found is not None:
            assert sum(array.nbytes for array in found[1].values()) <= 1 << 16


def test_a_frame_with_more_than_is_due_is_refused_before_it_is_read() -> None:
    text = b'{"arrays": [{"name": "a", "dtype": "<f8", "shape": [1000000]}]}'
    asked: list[int] = []

    def read(size: int) -> bytes:
        asked.append(size)
        return stream.read(size)

    stream = io.BytesIO(frames.MAGIC + len(text).to_bytes(4, "big") + text)
    with pytest.raises(frames.NotAFrame, match="8000000 bytes, where 100 are due"):
        frames.decode(read, most=100)
    assert asked == [8, len(text)]
