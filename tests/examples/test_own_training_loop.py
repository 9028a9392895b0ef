"""A training loop of the user's own, as examples/ shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.make import Workshop
from edgeprune.quantize.dialects import dialect_for
from edgeprune.recover.recipe import TrainingOptions
from edgeprune.tasks import call_evaluate, load_task

EXAMPLES = Path(__file__).parents[2] / "examples"
pytest.importorskip("sklearn", reason="the example reads scikit-learn's digits")


def test_the_examples_loop_brings_back_what_a_cut_lost() -> None:
    task = load_task(str(EXAMPLES / "own_training_loop.py"))
    shop = Workshop(task, dialect_for("onnxruntime-x86", "x86_64"))
    assert shop.highest_rung(None) == "trainer"
    kept = {group.name: range(max(group.least, group.units // 5)) for group in shop.coupling.groups}
    pruned, _ = shop.prune(kept, "trainer")
    heard: list[float] = []
    trained, (rung,) = shop.train(
        pruned, kept, "trainer", TrainingOptions(epochs=3), lambda name, told: heard.append(told.share)
    )
    assert (rung.name, rung.kept) == ("trainer", True)
    assert heard[-1] == 1.0
    before, after = (call_evaluate(task, shop.predictor(one)) for one in (pruned, trained))
    assert after > max(before + 0.15, 0.85)


def test_no_epochs_train_nothing() -> None:
    shop = Workshop(
        load_task(str(EXAMPLES / "own_training_loop.py")), dialect_for("onnxruntime-x86", "x86_64")
    )
    assert shop.train(shop.dense, {}, "trainer", TrainingOptions(epochs=0), None) == (shop.dense, ())
