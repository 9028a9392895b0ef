"""A checkpoint is read by the training that it belongs to, and by no other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edgeprune.graph.capture import capture
from edgeprune.recover.checkpoint import Checkpoint, checkpoint_key
from edgeprune.recover.recipe import Recipe, TrainingOptions


def test_a_state_comes_back_for_its_key_alone(tmp_path: Path) -> None:
    path = tmp_path / "run" / "training.pt"
    assert Checkpoint(path, "one").load() is None
    state = {"weights": {"w": torch.arange(3.0)}, "position": {"epoch": 2, "losses": [0.5]}, "best": None}
    Checkpoint(path, "one").save(state)
    found = Checkpoint(path, "one").load()
    assert found is not None
    assert torch.equal(found["weights"]["w"], state["weights"]["w"])  # type: ignore[index]
    assert (found["position"], found["best"]) == (state["position"], None)
    assert Checkpoint(path, "another").load() is None
    assert [each.name for each in path.parent.iterdir()] == ["training.pt"], "written whole, under one name"


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"PK\x03\x04 half a file"], ids=["empty", "text", "cut"]
)
def test_a_damaged_file_begins_the_training_again_and_is_told(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "training.pt"
    path.write_bytes(content)
    assert Checkpoint(path, "one").load() is None
    assert "cannot be read, so the training begins again" in caplog.text


def test_the_key_tells_apart_all_that_a_training_depends_on() -> None:
    torch.manual_seed(0)
    one, other = (capture(nn.Linear(3, 2), torch.randn(2, 3)) for _ in range(2))
    recipe = Recipe(TrainingOptions(3))
    keys = {
        checkpoint_key(one, recipe, "finetune"),
        checkpoint_key(other, recipe, "finetune"),
        checkpoint_key(one, recipe, "distill"),
        checkpoint_key(one, Recipe(TrainingOptions(4)), "finetune"),
        checkpoint_key(one, Recipe(TrainingOptions(3, seed=1)), "finetune"),
        checkpoint_key(one, Recipe(TrainingOptions(3), learning_rate=0.1), "finetune"),
    }
    assert len(keys) == 6
    assert checkpoint_key(one.copy(), recipe, "finetune") in keys
