"""Skeleton of a task file, which `edgeprune init` writes where there is no MODEL yet."""

TASK_FILE = "task.py"
SKELETON = '''\
"""The task of this project: the model, its data, and how good it is. `edgeprune fit` calls task().

Fill in load_model() and load_data(). As it stands this is a classifier; what else a task may have (other
outputs, your own loss or training loop) is in edgeprune's docs/tasks.md.
"""

import numpy as np
import torch

import edgeprune

BATCH = 32
CALIBRATION = 256  # samples, a few hundred are enough


def load_model():
    """The network, an nn.Module, with its trained weights."""
    raise edgeprune.InputError(
        "load_model() has no network to return yet.",
        "Build the network in load_model(), load its trained weights, and return it.",
    )


def load_data(part):
    """(inputs, labels) of "train" or "test": float32 [N, ...] and class numbers int64 [N], both tensors."""
    raise edgeprune.InputError(
        f"load_data() has no {part} data to return yet.",
        "Read the samples in load_data(), and return inputs and labels as the network takes them.",
    )


def batches(part):
    inputs, labels = load_data(part)
    return list(zip(inputs.split(BATCH), labels.split(BATCH)))


def right(predict):
    """Whether each test sample is classified right: [N], 0 or 1. predict takes and returns NumPy arrays."""
    found = [predict(inputs.numpy()).argmax(1) == labels.numpy() for inputs, labels in batches("test")]
    return np.concatenate(found).astype(float)


def task():
    model = load_model().eval()
    inputs, _ = load_data("train")
    return edgeprune.Task(
        model=model,
        example=inputs[:1],
        calibration=list(inputs[:CALIBRATION].split(BATCH)),
        train=batches("train"),
        evaluate=lambda predict: float(right(predict).mean()),
        evaluate_samples=right,
        metric="top-1",
    )
'''

__all__ = ["SKELETON", "TASK_FILE"]
