"""Synthetic pictures of discs, squares and triangles with their boxes, for `detector.py`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIZE = 64  # pixels
KINDS = ("disc", "square", "triangle")
SMALLEST, LARGEST, MOST = 9, 30, 3  # side of a box in pixels, shapes in a picture


@dataclass(frozen=True)
class Boxes:
    """Boxes in one picture.

    corners: float [n, 4], x1 y1 x2 y2 in pixels. kinds: int [n], of KINDS. scores: float [n], 1 of the truth.
    """

    corners: NDArray[np.float64]
    kinds: NDArray[np.int64]
    scores: NDArray[np.float64]


def drawn(pictures: int, seed: int) -> tuple[NDArray[np.float32], list[Boxes]]:
    """(pictures [N, 3, 64, 64] in 0..1, the boxes of each): one to three shapes that do not overlap."""
    draw = np.random.default_rng(seed)
    images = draw.uniform(0, 1, (pictures, 3, 1, 1)) * np.ones((SIZE, SIZE))
    truth = []
    for image in images:
        corners: list[NDArray[np.float64]] = []
        kinds: list[int] = []
        for _ in range(draw.integers(1, MOST + 1)):
            box, kind = _place(draw), int(draw.integers(len(KINDS)))
            if all(_apart(box, other) for other in corners):
                image[:, _mask(box, kind)] = _other_colour(image[:, 0, 0], draw)[:, None]
                corners.append(box)
                kinds.append(kind)
        truth.append(Boxes(np.stack(corners), np.array(kinds), np.ones(len(kinds))))
    images += draw.normal(0, 0.08, images.shape)
    return images.clip(0, 1).astype(np.float32), truth


def _place(draw: np.random.Generator) -> NDArray[np.float64]:
    side = draw.uniform(SMALLEST, LARGEST)
    left, top = draw.uniform(0, SIZE - side, 2)
    return np.array([left, top, left + side, top + side])


def _apart(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    return bool((one[2:] < other[:2]).any() or (other[2:] < one[:2]).any())


def _other_colour(background: NDArray[np.float64], draw: np.random.Generator) -> NDArray[np.float64]:
    """A colour that is well apart from the background in each channel."""
    return (background + draw.uniform(0.3, 0.7, 3)) % 1.0


def _mask(box: NDArray[np.float64], kind: int) -> NDArray[np.bool_]:
    """[64, 64], the pixels of a shape that fills its box."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    across, down = (x - box[0]) / (box[2] - box[0]), (y - box[1]) / (box[3] - box[1])
    inside = (across >= 0) & (across <= 1) & (down >= 0) & (down <= 1)
    disc = (across - 0.5) ** 2 + (down - 0.5) ** 2 <= 0.25
    triangle = np.abs(across - 0.5) <= down / 2
    return inside & (disc, True, triangle)[kind]
