"""The quick form of the zoo: every architecture is pruned by half from its graph alone, exactly.

`pytest -m zoo` runs only these; `python -m benchmarks.zoo` prints the whole table.
"""

from __future__ import annotations

import importlib.util
import warnings

import pytest
import torch

from benchmarks.zoo import ENTRIES, Entry, trial

pytestmark = [
    pytest.mark.zoo,
    # transformers' models warn while they are built and traced; nothing of it is edgeprune's.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_an_architecture_is_pruned_by_half_from_its_graph_alone(entry: Entry) -> None:
    if entry.needs is not None and importlib.util.find_spec(entry.needs) is None:
        pytest.skip(f"{entry.name} needs {entry.needs}, which is not installed")
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        row = trial.measure(entry, quick=True)
    assert row.reached[0] >= 0.5
    assert row.error <= trial.LIMIT
    assert row.moved > trial.MOVED, "the cut changes nothing, so the comparison proves nothing"
    assert row.frozen < trial.FROZEN, row.held
    assert row.trains
    assert row.reloads
    assert row.onnx
    assert row.told


def test_the_zoo_holds_every_architecture_once() -> None:
    names = [entry.name for entry in ENTRIES]
    assert len(names) == len(set(names))
    assert len(names) >= 39
