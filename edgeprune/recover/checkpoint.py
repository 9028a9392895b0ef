"""Checkpoint of a training: a file from which a training that was killed goes on."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgeprune.files import replacing
from edgeprune.graph.capture import Captured
from edgeprune.recover.recipe import Recipe

EVERY_SECONDS = 60.0  # between two checkpoints inside a pass over the data

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """Checkpoint file of one training. key: what the training starts from and does; a file with another key
    is left unread."""

    path: Path
    key: str

    def save(self, state: dict[str, Any]) -> None:
        """Write the state, tensors and plain values. Raises `InputError` when the place cannot be written."""
        with replacing(self.path) as temporary:
            torch.save({"key": self.key, "state": state}, temporary)

    def load(self) -> dict[str, Any] | None:
        """The state of a training with the same key; None without one, or where the file is damaged."""
        if not self.path.exists():
            return None
        try:
            found = torch.load(self.path, map_location="cpu", weights_only=True)
            same = found["key"] == self.key
        except Exception as error:  # torch raises whatever its unpickler stumbles over
            _log.warning("%s cannot be read, so the training begins again: %r", self.path, error)
            return None
        if not same:
            _log.info("%s is of another training, which begins anew", self.path)
        return found["state"] if same else None


def checkpoint_key(student: Captured, recipe: Recipe, *facts: object) -> str:
    """SHA-256 of the weights that a training starts from, its recipe and further facts."""
    digest = hashlib.sha256(repr((recipe, *facts)).encode())
    for name, tensor in sorted(student.module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
