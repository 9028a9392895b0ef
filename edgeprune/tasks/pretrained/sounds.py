"""Encoder of recordings: WAV files become what the model's feature extractor makes of one length of sound."""

from __future__ import annotations

import inspect
import io
import math
import wave
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeprune.errors import InputError
from edgeprune.limits import MOST_SECONDS
from edgeprune.tasks.pretrained.encoding import (
    ENOUGH,
    MOST_LENGTHS,
    Inputs,
    content_of,
    saved_files,
)
from edgeprune.tasks.pretrained.loading import Pretrained, answering, hushed

SAMPLE_BYTES = 2  # of one channel: 16 bits
FULL_SCALE = 32768
MOST_RATE = 1_000_000  # Hz
TENTH = 10  # lengths are rounded up to tenths of a second
_TRIED = (0.5, 1.0)  # seconds of silence by which an extractor shows whether it gives one length


@dataclass(frozen=True)
class SoundEncoder:
    """Encoder of WAV files by the model's feature extractor. folder: from which paths in cells are seen.

    samples: of every recording, padded or cut; None where the extractor gives one length by itself.
    """

    extractor: Any
    folder: Path
    inputs: tuple[str, ...]
    samples: int | None

    def __call__(self, cells: Mapping[str, Sequence[Any]]) -> Inputs:
        sounds = [recording(cell, self.folder, self.rate) for cell in cells["audio"]]
        with answering("The feature extractor"):
            found = _extracted(self.extractor, sounds, self.length)
            return {name: _in_32_bits(np.asarray(found[name])) for name in self.inputs}

    @property
    def rate(self) -> int:
        """Samples of a second."""
        return int(self.extractor.sampling_rate)

    @property
    def length(self) -> dict[str, Any]:
        """Arguments of the extractor that give every recording one length."""
        if self.samples is None:
            return {}
        return {"padding": "max_length", "max_length": self.samples, "truncation": True}

    def lengths_of(self, cells: Mapping[str, Sequence[Any]]) -> NDArray[np.int64]:
        """Samples of each recording, [rows]."""
        return np.array([frames_of(cell, self.folder, self.rate) for cell in cells["audio"]], np.int64)

    def files(self) -> dict[str, bytes]:
        """Files of the feature extractor."""
        return saved_files(self.extractor)


def sound_encoder(
    found: Pretrained, seconds: float | None, folder: Path, train: Mapping[str, Sequence[Any]]
) -> SoundEncoder:
    """Encoder by the folder's feature extractor.

    seconds: of every recording; None is the 99th percentile of the training recordings, to the next tenth,
    or what the extractor itself gives. folder: of the data. Raises `InputError`.
    """
    extractor = _extractor(found)
    rate = getattr(extractor, "sampling_rate", None)
    if not isinstance(rate, int) or not 0 < rate <= MOST_RATE:
        raise InputError(
            f"The feature extractor of {found.folder} has the sampling rate {rate!r:.40}.",
            "Save the one that the model was trained with: extractor.save_pretrained(folder).",
        )
    alone = SoundEncoder(extractor, folder, (), None)
    if _gives_one_length(alone, found):
        if seconds is not None:
            raise InputError(
                f"--seconds {seconds:g} was given, and the feature extractor of {found.folder} pads and cuts "
                "every recording itself.",
                "Leave --seconds out.",
            )
        return SoundEncoder(extractor, folder, _names(alone, found), None)
    if seconds is None:
        some = {role: list(cells[:MOST_LENGTHS]) for role, cells in train.items()}
        longest = float(np.percentile(alone.lengths_of(some), ENOUGH)) / rate
        seconds = min(MOST_SECONDS, math.ceil(TENTH * longest) / TENTH)
    encode = SoundEncoder(extractor, folder, (), round(seconds * rate))
    names = _names(encode, found)
    given = _tried(encode, found, _TRIED[0])[names[0]]
    if given.shape != (1, encode.samples):
        raise InputError(
            f"The feature extractor of {found.folder} makes {list(given.shape)} of {encode.samples} samples, "
            "and edgeprune knows no way to give its recordings one length.",
            "Write a FILE.py whose task() extracts them (docs/tasks.md).",
        )
    return SoundEncoder(extractor, folder, names, encode.samples)


def _extractor(found: Pretrained) -> Any:
    from transformers import AutoFeatureExtractor

    try:
        with hushed():
            return AutoFeatureExtractor.from_pretrained(
                found.folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:
        raise InputError(
            f"transformers cannot load the feature extractor of {found.folder}: {str(error).strip()[:200]}",
            "Save it beside the model: extractor.save_pretrained(folder).",
        ) from error


def _gives_one_length(encode: SoundEncoder, found: Pretrained) -> bool:
    """Whether recordings of two lengths become inputs of one shape."""
    one, other = (
        {name: value.shape for name, value in _tried(encode, found, seconds).items()} for seconds in _TRIED
    )
    return one == other


def _tried(encode: SoundEncoder, found: Pretrained, seconds: float) -> dict[str, NDArray[Any]]:
    """What the extractor makes of so much silence, by name. Raises `InputError`."""
    silence = np.zeros(max(1, round(seconds * encode.rate)), np.float32)
    try:
        answer = _extracted(encode.extractor, [silence], encode.length)
        return {str(name): np.asarray(value) for name, value in answer.items()}
    except Exception as error:
        raise InputError(
            f"The feature extractor of {found.folder} fails on {seconds:g} s of silence: "
            f"{str(error).strip()[:200] or type(error).__name__}",
            "Save the one that the model was trained with: extractor.save_pretrained(folder).",
        ) from error


def _names(encode: SoundEncoder, found: Pretrained) -> tuple[str, ...]:
    """Inputs that the extractor makes and the model takes, in the extractor's order. Raises `InputError`."""
    takes = inspect.signature(found.module.model.forward).parameters
    made = _tried(encode, found, _TRIED[0])
    names = tuple(name for name in made if name in takes)
    if not names:
        raise InputError(
            f"The feature extractor of {found.folder} makes {', '.join(made) or 'nothing'}, and the model "
            f"takes {', '.join(takes)}.",
            "Save the one that the model was trained with: extractor.save_pretrained(folder).",
        )
    return names


def _extracted(extractor: Any, sounds: Sequence[NDArray[np.float32]], length: Mapping[str, Any]) -> Any:
    with hushed():
        return extractor(list(sounds), sampling_rate=extractor.sampling_rate, return_tensors="np", **length)


def _in_32_bits(array: NDArray[Any]) -> NDArray[Any]:
    """Array of float32, or of whole numbers as a text's."""
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int64)


def recording(cell: Any, folder: Path, rate: int) -> NDArray[np.float32]:
    """Samples of a WAV file, -1 to 1, [samples]: the mean of its channels.

    cell: a path seen from the folder, or what `datasets` saves of a recording. Of a very long one the first
    `MOST_SECONDS` are read. Raises `InputError`.
    """
    with _opened(cell, folder, rate) as (file, name):
        channels = file.getnchannels()
        content = file.readframes(min(file.getnframes(), int(MOST_SECONDS * rate)))
    whole = len(content) - len(content) % (SAMPLE_BYTES * channels)
    frames = np.frombuffer(content[:whole], "<i2")
    if not frames.size:
        raise InputError(f"{name} holds no sound.", "Leave it out of the data.")
    sound: NDArray[np.float32] = frames.reshape(-1, channels).mean(1, dtype=np.float32) / FULL_SCALE
    return sound


def frames_of(cell: Any, folder: Path, rate: int) -> int:
    """Samples of one channel of a WAV file, as its head says. Raises `InputError`."""
    with _opened(cell, folder, rate) as (file, _):
        return int(file.getnframes())


@contextmanager
def _opened(cell: Any, folder: Path, rate: int) -> Iterator[tuple[wave.Wave_read, str]]:
    """A WAV file of 16 bits and the model's rate, and its name. Raises `InputError`."""
    content, name = content_of(cell, "recordings", "WAV files")
    place = io.BytesIO(content) if content is not None else str(folder / name)
    hint = f"Write it as the model takes it: ffmpeg -i IN -ar {rate} -c:a pcm_s16le OUT.wav."
    try:
        with wave.open(place) as file:
            found = (8 * file.getsampwidth(), file.getframerate())
            if found != (8 * SAMPLE_BYTES, rate):
                raise InputError(
                    f"{name} has {found[0]} bits and {found[1]} Hz, and the model takes {rate} Hz; edgeprune "
                    f"reads {8 * SAMPLE_BYTES} bits and changes no rate.",
                    hint,
                )
            yield file, name
    except (OSError, EOFError, RuntimeError, wave.Error) as error:  # RuntimeError of a seek out of bounds
        raise InputError(
            f"{name} is no WAV file that can be read: {error or 'it ends too early'}.", hint
        ) from error
