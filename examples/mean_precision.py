"""Mean average precision of boxes at one overlap, as PASCAL VOC 2010 and COCO count it, for `detector.py`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from shapes import Boxes

OVERLAP = 0.5


def overlaps(one: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n], intersection over union of one box with n others, given by their corners."""
    sides = np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])
    shared = sides.clip(min=0).prod(axis=1)
    areas = np.prod(one[2:] - one[:2]) + (others[:, 2:] - others[:, :2]).prod(axis=1)
    return np.asarray(shared / (areas - shared))


def without_doubles(boxes: Boxes) -> Boxes:
    """Non-maximum suppression: the surest first, without those that overlap a surer one of their kind."""
    kept: list[int] = []
    for at in np.argsort(-boxes.scores, kind="stable").tolist():
        surer = [other for other in kept if boxes.kinds[other] == boxes.kinds[at]]
        if (overlaps(boxes.corners[at], boxes.corners[surer]) < OVERLAP).all():
            kept.append(at)
    return Boxes(boxes.corners[kept], boxes.kinds[kept], boxes.scores[kept])


def mean_precision(found: list[Boxes], truth: list[Boxes], kinds: int) -> float:
    """Mean over the kinds of the area under precision by recall; found: the boxes of each picture."""
    return float(np.mean([_average_precision(found, truth, kind) for kind in range(kinds)]))


def _average_precision(found: list[Boxes], truth: list[Boxes], kind: int) -> float:
    scores: list[float] = []
    hits: list[bool] = []
    shapes = 0
    for boxes, wanted in zip(found, truth, strict=True):
        open_ = wanted.corners[wanted.kinds == kind]
        shapes += len(open_)
        for at in np.flatnonzero(boxes.kinds == kind):
            shares = overlaps(boxes.corners[at], open_)
            hit = bool(len(shares) and shares.max() >= OVERLAP)
            if hit:  # each shape is found once
                open_ = np.delete(open_, shares.argmax(), axis=0)
            hits.append(hit)
            scores.append(float(boxes.scores[at]))
    if not shapes:
        raise ValueError(f"no picture has a shape of kind {kind}")
    right = np.cumsum(np.array(hits, float)[np.argsort(-np.array(scores), kind="stable")])
    precision = right / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or a higher one
    return float((best * np.diff(right, prepend=0)).sum() / shapes)
