"""Pruning of a pretrained folder to one that loads again: `edgeprune prune FOLDER -o FOLDER`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured
from edgeprune.graph.cost import count
from edgeprune.graph.coupling import Kept
from edgeprune.limits import check_seed
from edgeprune.meaning.kinds import Said
from edgeprune.meaning.yardstick import Yardstick
from edgeprune.pruning.criteria import DEFAULT, WITHOUT_DATA, Criterion, find_criterion
from edgeprune.pruning.folder.config_layers import (
    Stack,
    droppable,
    dropped_branches,
    least_missed_layers,
    without_layers,
)
from edgeprune.pruning.folder.counterpart import Counterpart
from edgeprune.pruning.folder.knobs import Field, Knobs, value_of, with_values
from edgeprune.pruning.folder.uniform import uniform_widths
from edgeprune.pruning.sequential import refit, solving_rows
from edgeprune.pruning.unlabelled import own_yardstick, unlabelled_scores
from edgeprune.tasks.pretrained.loading import CONFIG, Logits, hushed, read_settings

# What `save_pretrained` writes of a model itself; everything else of a folder comes along.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".index.json")


@dataclass(frozen=True)
class PrunedFolder:
    """Pruned pretrained model.

    model: of transformers, with weights. changed: values of the config's fields, before and after.
    whole: groups that were kept, as no field of the config says their width. captured: the same as a graph.
    """

    model: Any
    changed: Mapping[str, tuple[int, int]]
    kept: Kept
    whole: tuple[str, ...]
    params: int
    macs: int
    dense_params: int
    dense_macs: int
    captured: Captured

    def save(self, source: Path, place: Path) -> Path:
        """Write a folder as `save_pretrained` does, with what else lies in `source`.

        That is its tokenizer, processor and generation config, as they are.

        Raises `InputError` where something is at `place` already. It is whole or not there.
        """
        check_place(place)
        folder = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        try:
            if hasattr(self.model.config, "use_cache"):  # off while a graph is captured
                self.model.config.use_cache = read_settings(source).get("use_cache", True)
            with hushed():
                self.model.save_pretrained(folder)
            for path in sorted(source.iterdir()):
                if path.is_file() and path.name != CONFIG and not path.name.endswith(_WEIGHTS):
                    shutil.copyfile(path, folder / path.name)
            folder.chmod(0o755)
            folder.rename(place)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return place


def check_place(place: Path) -> None:
    """Refuse a folder that is there already. Raises `InputError`."""
    if place.exists():
        raise InputError(f"{place} is there already.", "Give -o the name of a new folder.")
    if not place.parent.is_dir():
        raise InputError(f"{place.parent} is no folder.", "Make it first.")


def prune_folder(
    module: Logits,
    example: Any,
    ratio: float,
    criterion: str | Criterion | None = None,
    calibration: Sequence[tuple[torch.Tensor, ...]] = (),
    seed: int = 0,
    *,
    layers: int = 0,
    outputs: Said = None,
) -> PrunedFolder:
    """Remove a share of the parameters that the config's widths and layers hold, alike in all layers.

    module: a model of transformers as `load_pretrained` gives it. example: inputs by name.
    ratio: in [0, 1), of the parameters that the fields of the config can make fewer.
    calibration: flat inputs, in the order of the graph's; with them weights are solved for anew.
    layers: whole layers to drop first, one after another the one that the outputs miss least.
    Raises `InputError` for a model of which the config says no width that can be cut, and as `prune` does.
    """
    check_seed(seed)
    if not 0 <= ratio < 1:  # false for NaN, too
        raise InputError(f"The ratio is {ratio}.", "Give a share of the parameters, 0 <= ratio < 1.")
    chosen = find_criterion(criterion or (DEFAULT if calibration else WITHOUT_DATA))
    dense = Counterpart.of(module, example)
    found, stacks = dense.knobs(), dense.stacks()
    if not found.rows and not (layers and stacks):
        raise InputError(
            f"No number in the config of a {type(module.model).__name__} says a width that can be cut.",
            "Write a .pt2 file instead: -o OUT.pt2, where every layer has a width of its own.",
        )
    batches = list(calibration)
    rows = batches or [dense.captured.inputs]
    measured = cache(lambda: own_yardstick(dense.captured, outputs, rows))
    scores = unlabelled_scores(dense.captured, dense.coupling, chosen, batches, outputs, measured, seed)
    cost = count(dense.captured, dense.coupling)
    gone = _gone(dense, stacks, rows, layers, measured)
    dropped = dropped_branches(stacks, gone)
    movable = sum(dense.state[name].numel() for name in _movable(dense, found, stacks if layers else ()))
    values, kept = dict[Field, int](), dict(dropped)
    if found.rows:
        values, kept = uniform_widths(found.rows, dense.coupling, cost, scores, ratio, movable, dropped)
    pruned = dense.cut(kept)
    if batches:
        refit(pruned, dense.captured, dense.coupling, kept, solving_rows(batches, cost.macs({})))
    config = with_values(found.config, values)
    for field, its in gone.items():
        config = without_layers(config, field, its)
    model = dense.without(stacks, gone).proven(config, pruned)
    held = {name for knob in found.rows for name in knob.groups}
    return PrunedFolder(
        model=model,
        changed=_changed(found.config, values, gone),
        kept=kept,
        whole=tuple(group.name for group in dense.coupling.groups if group.name not in held),
        params=cost.params(kept),
        macs=cost.macs(kept),
        dense_params=cost.params({}),
        dense_macs=cost.macs({}),
        captured=pruned,
    )


def _gone(
    dense: Counterpart,
    stacks: Sequence[Stack],
    rows: Sequence[tuple[torch.Tensor, ...]],
    layers: int,
    measured: Callable[[], Yardstick],
) -> dict[Field, list[int]]:
    """Layers to drop, by the field that counts them. Raises `InputError` for more than can leave."""
    most = sum(map(droppable, stacks))
    if not 0 <= layers <= most:
        name = type(dense.module.model).__name__
        raise InputError(
            f"{layers} layers are to be dropped, and {most} of this {name} can be.",
            "A layer can be that only adds to a stream, and that the config counts: give fewer layers.",
        )
    if not layers:
        return {}
    return least_missed_layers(dense.captured, dense.coupling, stacks, rows, measured().distance, layers)


def _movable(dense: Counterpart, found: Knobs, stacks: Sequence[Stack]) -> set[str]:
    """Tensors that a field of the config makes smaller, or that leave with a layer."""
    groups = {name for knob in found.rows for name in knob.groups}
    names = {
        dense.names[axis.parameter]
        for group in dense.coupling.groups
        if group.name in groups
        for axis in group.axes
    }
    layers = tuple(stack.prefix for stack in stacks)
    return (names | {name for name in dense.state if layers and name.startswith(layers)}) & dense.state.keys()


def _changed(
    config: Any, values: Mapping[Field, int], gone: Mapping[Field, Sequence[int]]
) -> dict[str, tuple[int, int]]:
    """Fields that change, as `text_config.hidden_size`, with their values before and after."""
    after = dict(values) | {field: value_of(config, field) - len(its) for field, its in gone.items()}
    return {
        ".".join(field): (value_of(config, field), value)
        for field, value in after.items()
        if value != value_of(config, field)
    }


__all__ = ["PrunedFolder", "check_place", "prune_folder"]
