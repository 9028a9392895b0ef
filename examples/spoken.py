"""Synthetic spoken words: a formant synthesiser after Klatt (1980), for `keywords.py`.

Nobody's voice: a pulse train and noise through three resonators, whose frequencies glide from phone to phone.
Speakers differ in pitch, vocal tract and pace; a word begins somewhere in its second and has noise behind it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RATE = 8000  # samples a second
SECONDS = 1.0
FRAME = 80  # samples between two settings of the resonators: 10 ms
BANDWIDTHS = np.array([80.0, 100.0, 160.0])  # Hz, of the three formants

# Formants in Hz (vowels: Peterson and Barney 1952, men), then the shares of voice and of noise.
PHONES = {
    "i": (270, 2290, 3010, 1.0, 0.0),
    "e": (530, 1840, 2480, 1.0, 0.0),
    "a": (730, 1090, 2440, 1.0, 0.0),
    "o": (570, 840, 2410, 1.0, 0.0),
    "u": (300, 870, 2240, 1.0, 0.0),
    "n": (280, 1700, 2600, 0.4, 0.0),
    "l": (360, 1300, 2700, 0.6, 0.0),
    "r": (310, 1060, 1380, 0.6, 0.0),
    "s": (2600, 3300, 3700, 0.0, 0.5),
    "f": (1100, 2100, 3300, 0.0, 0.2),
    "-": (400, 1500, 2500, 0.0, 0.0),  # the silence of a stop
}
WORDS = {
    "yes": "ies",
    "no": "nou",
    "up": "a-f",
    "down": "-aun",
    "left": "lef-s",
    "right": "rai-s",
    "on": "on",
    "off": "of",
    "stop": "s-o-f",
    "go": "-ou",
}
LABELS = tuple(WORDS)


def spoken(words: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(waves [words, 8000], labels [words]): words in equal shares, by speakers who say one word each."""
    draw = np.random.default_rng(seed)
    labels = draw.permutation(np.arange(words) % len(WORDS))
    tracks = np.stack([_track(WORDS[LABELS[label]], draw) for label in labels])
    waves = _resonate(tracks, draw)
    waves /= np.abs(waves).max(axis=1, keepdims=True)
    loudness = 0.2 * 10 ** (-draw.uniform(0, 25, (words, 1)) / 20)  # a fifth of the peak, to 25 dB less
    waves += loudness * draw.standard_normal(waves.shape)
    return waves.astype(np.float32), labels


def _track(phones: str, draw: np.random.Generator) -> NDArray[np.float64]:
    """[frames, 5], a row of PHONES for each frame: the word at a pace and a place of its own."""
    rows = np.array([PHONES[phone] for phone in f"-{phones}-"])
    length = draw.uniform(0.35, 0.65) * SECONDS * RATE / FRAME
    start = draw.uniform(0.05, 0.3) * SECONDS * RATE / FRAME
    shares = draw.uniform(0.7, 1.3, len(phones))
    middles = start + length * (np.cumsum(shares) - shares / 2) / shares.sum()
    knots = np.concatenate([[start], middles, [start + length]])
    frames = np.arange(SECONDS * RATE / FRAME)
    track = np.stack([np.interp(frames, knots, column) for column in rows.T], axis=1)
    track[:, :3] *= draw.uniform(0.9, 1.15)  # a shorter vocal tract: all formants higher
    return track


def _resonate(tracks: NDArray[np.float64], draw: np.random.Generator) -> NDArray[np.float64]:
    """[words, samples], of all words at once, sample by sample: three resonators in parallel."""
    words, frames, _ = tracks.shape
    pitch = draw.uniform(90, 230, (words, 1)) * np.linspace(1.1, 0.9, frames * FRAME)
    phase = np.cumsum(pitch, axis=1) / RATE
    pulses = np.diff(np.floor(phase), axis=1, prepend=0)
    noise = 0.1 * draw.standard_normal(pulses.shape)
    decay = np.exp(-np.pi * BANDWIDTHS / RATE)
    last, before = np.zeros((2, words, 3))
    waves = np.empty_like(pulses)
    for at in range(frames * FRAME):
        if at % FRAME == 0:
            formants, voiced, noisy = np.split(tracks[:, at // FRAME], [3, 4], axis=1)
            turn = 2 * decay * np.cos(2 * np.pi * formants / RATE)
        source = voiced * pulses[:, at, None] + noisy * noise[:, at, None]
        last, before = source + turn * last - decay**2 * before, last
        waves[:, at] = last.sum(axis=1)
    return waves
