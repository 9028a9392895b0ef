"""A detector of shapes at two scales, as a task: `edgeprune fit examples/detector.py --speedup 4`.

The pictures are synthetic (`shapes.py`). The network is a small feature pyramid with a head for small shapes
and one for large ones; it returns a dict of four maps. The cell in which its centre lies answers for a shape.
The loss is the task's own, over all maps; the metric is mAP at an overlap of 0.5 (`mean_precision.py`).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from mean_precision import mean_precision, without_doubles
from numpy.typing import NDArray
from shapes import KINDS, SIZE, Boxes, drawn
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate, smooth_l1_loss

import edgeprune
from edgeprune.records.task import Predict

TRAINING, TEST = 1500, 400  # pictures
STRIDES = {"fine": 8, "coarse": 16}  # pixels of a cell
LARGE = 18  # pixels: shapes from this side on are the coarse head's; no two centres share a cell
BATCH, EPOCHS = 25, 12

Maps: TypeAlias = dict[str, Tensor]


def convolved(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Detector(nn.Module):
    """[N, 3, 64, 64] -> for "fine" (8 x 8 cells) and "coarse" (4 x 4) logits of the kinds and boxes.

    fine_kinds: [N, 3, 8, 8]; fine_boxes: [N, 4, 8, 8], the centre's place in the cell and the logarithm of
    width and height, in cells.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(convolved(3, 16, 2), convolved(16, 32, 2))
        self.middle = nn.Sequential(convolved(32, width, 2), convolved(width, width))
        self.deep = nn.Sequential(convolved(width, width, 2), convolved(width, width))
        self.lateral = nn.Conv2d(width, width, 1)
        self.heads = nn.ModuleDict({scale: convolved(width, width) for scale in STRIDES})
        self.kinds = nn.ModuleDict({scale: nn.Conv2d(width, len(KINDS), 1) for scale in STRIDES})
        self.boxes = nn.ModuleDict({scale: nn.Conv2d(width, 4, 1) for scale in STRIDES})
        for kinds in self.kinds.values():
            nn.init.constant_(kinds.bias, -3.0)  # most cells are empty (Lin et al. 2017, "focal loss")

    def forward(self, images: Tensor) -> Maps:
        middle = self.middle(self.stem(images))
        deep = self.deep(middle)
        levels = {"fine": self.lateral(middle) + interpolate(deep, scale_factor=2.0), "coarse": deep}
        maps = {}
        for scale, level in levels.items():
            level = self.heads[scale](level)
            maps[f"{scale}_kinds"] = self.kinds[scale](level)
            maps[f"{scale}_boxes"] = self.boxes[scale](level)
        return maps


def targets(truth: list[Boxes]) -> Maps:
    """Maps as the network returns them: 1 for the kind in a shape's cell, and its box there."""
    maps = {}
    for scale, stride in STRIDES.items():
        cells = SIZE // stride
        kinds = torch.zeros(len(truth), len(KINDS), cells, cells)
        boxes = torch.zeros(len(truth), 4, cells, cells)
        for picture, found in enumerate(truth):
            for (left, top, right, bottom), kind in zip(found.corners, found.kinds, strict=True):
                if (right - left >= LARGE) == (scale == "coarse"):
                    x, y = (left + right) / 2 / stride, (top + bottom) / 2 / stride
                    size = np.log([(right - left) / stride, (bottom - top) / stride])
                    kinds[picture, kind, int(y), int(x)] = 1
                    boxes[picture, :, int(y), int(x)] = torch.tensor([x % 1, y % 1, *size])
        maps |= {f"{scale}_kinds": kinds, f"{scale}_boxes": boxes}
    return maps


def loss(maps: Maps, target: Maps) -> Tensor:
    """Cross-entropy of the kinds in every cell, and the distance of boxes where a shape is; by the shapes."""
    parts = []
    for scale in STRIDES:
        kinds, boxes = target[f"{scale}_kinds"], target[f"{scale}_boxes"]
        there = kinds.amax(dim=1, keepdim=True)
        wrong = binary_cross_entropy_with_logits(maps[f"{scale}_kinds"], kinds, reduction="sum")
        off = smooth_l1_loss(maps[f"{scale}_boxes"] * there, boxes, reduction="sum", beta=0.1)
        parts.append((wrong + off) / there.sum().clamp(min=1))
    return torch.stack(parts).sum()


def boxes_of(maps: list[NDArray[np.float32]]) -> list[Boxes]:
    """Boxes in each picture, the surest first; maps: in the order in which the network returns them."""
    found = []
    for picture in range(len(maps[0])):
        parts = [_cells(maps[at][picture], maps[at + 1][picture]) for at in (0, 2)]
        corners, kinds, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
        found.append(without_doubles(Boxes(corners, kinds, scores)))
    return found


def _cells(
    kinds: NDArray[np.float32], boxes: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Corners, kinds and scores of the cells of one map that may hold a shape."""
    stride = SIZE / kinds.shape[-1]
    scores = 1 / (1 + np.exp(-kinds.astype(np.float64)))
    kind, y, x = np.nonzero(scores > 0.05)
    box = boxes[:, y, x].astype(np.float64)
    centre = stride * (np.stack([x, y]) + box[:2])
    half = stride * np.exp(box[2:].clip(max=3)) / 2
    return np.concatenate([centre - half, centre + half]).T, kind, scores[kind, y, x]


def batches(images: Tensor, maps: Maps) -> list[tuple[Tensor, Maps]]:
    """(images, maps) of BATCH pictures each."""
    parts = [slice(first, first + BATCH) for first in range(0, len(images), BATCH)]
    return [(images[rows], {name: each[rows] for name, each in maps.items()}) for rows in parts]


def trained(pairs: list[tuple[Tensor, Maps]]) -> nn.Module:
    torch.manual_seed(0)
    net = Detector()
    optimiser = torch.optim.AdamW(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=EPOCHS * len(pairs))
    for _ in range(EPOCHS):
        for at in torch.randperm(len(pairs)).tolist():
            images, maps = pairs[at]
            optimiser.zero_grad()
            loss(net(images), maps).backward()
            optimiser.step()
            schedule.step()
    return net.eval()


def task() -> edgeprune.Task:
    images, truth = drawn(TRAINING, seed=0)
    pairs = batches(torch.from_numpy(images), targets(truth))
    test, wanted = drawn(TEST, seed=1)

    def score(predict: Predict) -> float:
        maps = [predict(test[rows : rows + BATCH]) for rows in range(0, TEST, BATCH)]
        found = boxes_of([np.concatenate(parts) for parts in zip(*maps, strict=True)])
        return mean_precision(found, wanted, len(KINDS))

    return edgeprune.Task(
        model=trained(pairs),
        example=pairs[0][0][:1],
        calibration=[images for images, _ in pairs[:20]],
        train=pairs,
        loss=loss,
        outputs={
            **{f"{scale}_kinds": "labels" for scale in STRIDES},  # each kind by itself, in each cell
            **{f"{scale}_boxes": "values:1" for scale in STRIDES},  # four numbers, each in its own unit
        },
        evaluate=score,
        metric="mAP@0.5",
    )
