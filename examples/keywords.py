"""Ten spoken keywords, as a task: `edgeprune fit examples/keywords.py --speedup 4`.

The words are synthetic (`spoken.py`). A DS-CNN reads their log-mel spectrograms: the depthwise separable
network of "Hello Edge" (Zhang et al. 2017, arXiv:1711.07128), which MLPerf Tiny took over.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from spoken import LABELS, RATE, spoken
from torch import nn

import edgeprune
from edgeprune.records.task import Predict

TRAINING, TEST = 2000, 1000  # words
FFT, HOP, BANDS = 256, 160, 20  # a spectrum of 32 ms every 20 ms, in so many mel bands
WIDTH, BLOCKS = 96, 4
BATCH, EPOCHS = 50, 6


def mel_filters() -> NDArray[np.float32]:
    """[FFT // 2 + 1, BANDS]: triangles that are equally wide on the mel scale, from 20 Hz to half of RATE."""
    lowest, highest = (2595 * np.log10(1 + hertz / 700) for hertz in (20, RATE / 2))
    edges = 700 * (10 ** (np.linspace(lowest, highest, BANDS + 2) / 2595) - 1)
    hertz = np.linspace(0, RATE / 2, FFT // 2 + 1)[:, None]
    rising = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def log_mel(waves: NDArray[np.float32]) -> torch.Tensor:
    """Front end, in front of the model: [words, samples] -> [words, 1, frames, BANDS], about -1 to 1."""
    frames = np.lib.stride_tricks.sliding_window_view(waves, FFT, axis=1)[:, ::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(FFT).astype(np.float32))) ** 2
    return torch.from_numpy(np.log10(power.astype(np.float32) @ mel_filters() + 1e-3)[:, None] / 2)


def convolved(
    inputs: int, outputs: int, size: tuple[int, int], stride: int = 1, groups: int = 1
) -> nn.Module:
    padding = (size[0] // 2, size[1] // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class DSCNN(nn.Sequential):
    """[N, 1, 49, 20] log-mel bands -> [N, 10] logits."""

    def __init__(self) -> None:
        blocks = []
        for _ in range(BLOCKS):
            blocks += [convolved(WIDTH, WIDTH, (3, 3), groups=WIDTH), convolved(WIDTH, WIDTH, (1, 1))]
        super().__init__(
            convolved(1, WIDTH, (9, 5), stride=2),
            *blocks,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(WIDTH, len(LABELS)),
        )


def trained(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> nn.Module:
    """DS-CNN after less than a minute of training: AdamW, one cycle of its rate."""
    torch.manual_seed(0)
    net = DSCNN()
    optimiser = torch.optim.AdamW(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=EPOCHS * len(pairs))
    for _ in range(EPOCHS):
        for at in torch.randperm(len(pairs)).tolist():
            sounds, labels = pairs[at]
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(sounds), labels).backward()
            optimiser.step()
            schedule.step()
    return net.eval()


def task() -> edgeprune.Task:
    waves, labels = spoken(TRAINING, seed=0)
    sounds = log_mel(waves)
    pairs = list(zip(sounds.split(BATCH), torch.from_numpy(labels).split(BATCH), strict=True))
    waves, wanted = spoken(TEST, seed=1)
    test = log_mel(waves).numpy()

    def right(predict: Predict) -> NDArray[np.float64]:
        answers = [predict(test[rows : rows + BATCH]).argmax(axis=1) for rows in range(0, TEST, BATCH)]
        return (np.concatenate(answers) == wanted).astype(float)

    return edgeprune.Task(
        model=trained(pairs),
        example=sounds[:1],
        calibration=[inputs for inputs, _ in pairs[:10]],
        train=pairs,
        evaluate=lambda predict: float(right(predict).mean()),
        evaluate_samples=right,
        metric="top-1",
    )
