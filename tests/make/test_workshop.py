"""What a workshop offers to recover with, and what it records of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from onnx import TensorProto
from torch import nn

from edgeprune import InputError, Task
from edgeprune.graph import onnxfile
from edgeprune.make import Workshop, builder, recovered
from edgeprune.quantize.dialects import dialect_for
from edgeprune.records.trial import Candidate
from edgeprune.recover.recipe import TrainingOptions
from edgeprune.recover.ways import TABLE as WAYS
from edgeprune.tasks import check

pytestmark = pytest.mark.usefixtures("exports_once")

EPOCHS = 120  # rewinding trains the second half again, at a smaller rate


def model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3)).eval()


@cache
def trained() -> tuple[nn.Module, dict[str, torch.Tensor], tuple[tuple[torch.Tensor, torch.Tensor], ...]]:
    """A model that tells the largest of three inputs, its weights half-way there, and its data."""
    net, inputs = model(0), [torch.randn(32, 4) for _ in range(16)]
    pairs = tuple((x, x[:, :3].argmax(1)) for x in inputs)
    optimiser, early = torch.optim.Adam(net.parameters(), lr=1e-2), {}
    for step in range(160):
        x, target = pairs[step % len(pairs)]
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x), target).backward()
        optimiser.step()
        if step == 80:
            early = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    return net, early, pairs


def own_loop(module: nn.Module, teacher: nn.Module, data: Any, progress: Any) -> None:
    """A training loop as a user brings it."""
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-3)
    module.train()
    for _ in range(EPOCHS):
        for x, target in data:
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(x), target).backward()
            optimiser.step()


def workshop(tell: Callable[[str], None] | None = None, **parts: Any) -> Workshop:
    net, early, pairs = trained()
    fields: dict[str, Any] = {
        "model": net,
        "example": pairs[0][0][:1],
        "calibration": [x for x, _ in pairs],
        "train": pairs,
        "earlier": early,
        "trainer": own_loop,
        "evaluate": lambda predict: 0.5,
    }
    return Workshop(Task(**{**fields, **parts}), dialect_for("onnxruntime-x86", "x86_64"), tell=tell)


@pytest.mark.parametrize("name", [way.name for way in WAYS.values() if way.trains])
def test_a_rung_that_trains_comes_after_reconstruction_and_is_recorded(name: str) -> None:
    shop = workshop()
    (group,) = shop.coupling.groups
    kept = {group.name: (0, 3, 8, 9, 17, 30)}
    pruned, free = shop.prune(kept, name)
    better, last = shop.train(pruned, kept, name, TrainingOptions(EPOCHS), None)
    records = recovered((*free, *last))
    assert [record[0] for record in records] == ["reconstruct", "statistics", name]
    _, before, after, kept = records[-1]
    assert kept == (after < before)
    assert kept, "so many epochs teach six units something"
    assert shop.judge.error(better) == pytest.approx(after)


def test_low_rank_updates_need_no_labels() -> None:
    shop = workshop(train=None, earlier=None)
    (group,) = shop.coupling.groups
    kept = {group.name: range(6)}
    pruned, _ = shop.prune(kept, "lora")
    _, (rung,) = shop.train(pruned, kept, shop.highest_rung("lora"), TrainingOptions(8), None)
    assert (rung.name, rung.kept) == ("lora", True)


def test_training_data_without_an_end_is_bounded_and_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "MOST_UNCOUNTED", 320)
    _, _, pairs = trained()

    def endless() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield from itertools.cycle(pairs)

    told: list[str] = []
    shop = workshop(tell=told.append, train=endless)
    passes = [sum(len(inputs[0]) for inputs, _ in shop.split.epoch(number)) for number in range(2)]
    assert passes[0] == passes[1]
    assert 0.6 * 320 < passes[0] < 320
    (sentence,) = told
    assert "does not say its length, and goes on: an epoch is the first 320 samples of a pass" in sentence


def test_every_rung_may_be_asked_for_when_the_task_has_everything() -> None:
    shop = workshop()
    assert [shop.highest_rung(name) for name in WAYS] == list(WAYS)


def test_the_default_is_what_the_data_allows() -> None:
    assert workshop().highest_rung(None) == "trainer"
    assert workshop(trainer=None).highest_rung(None) == "finetune"
    assert workshop(trainer=None, train=None).highest_rung(None) == "distill"


def test_a_model_that_returns_decisions_alone_is_reconstructed() -> None:
    class Decided(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).argmax(1)

    shop = workshop(model=Decided(*model(0)), earlier=None, train=None)
    assert shop.highest_rung(None) == "reconstruct"
    shop.rehearse("reconstruct", TrainingOptions())
    with pytest.raises(InputError, match="its outputs have no gradient"):
        shop.rehearse("distill", TrainingOptions())
    (group,) = shop.coupling.groups
    pruned, _ = shop.prune({group.name: range(2)}, "none")
    assert 0 < shop.judge.error(pruned) < 1, "the share of other decisions"


@dataclass(frozen=True)
class Refused:
    name: str
    recover: str
    parts: dict[str, Any]
    says: str


REFUSED = (
    Refused("an unknown rung", "prayer", {}, "no recovery 'prayer'"),
    Refused("fine-tuning without labels", "finetune", {"train": None}, "no `train`"),
    Refused("rewinding without labels", "rewind", {"train": None}, "no `train`"),
    Refused("rewinding without earlier weights", "rewind", {"earlier": None}, "no `earlier`"),
    Refused("low-rank updates of nothing", "lora", {"model": nn.ReLU()}, "no linear or convolution"),
)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_a_rung_that_lacks_something_is_refused_with_a_way_out(case: Refused) -> None:
    with pytest.raises(InputError, match=case.says) as refused:
        workshop(**case.parts).highest_rung(case.recover)
    assert refused.value.hint


def test_the_share_of_products_counts_what_multiplies_with_stored_matrices(tiny: ModuleType) -> None:
    assert workshop().share_of_products == 1.0
    convolutional = Workshop(tiny.task(), dialect_for("onnxruntime-x86", "x86_64"))
    assert 0.0 < convolutional.share_of_products < 0.01


@pytest.mark.parametrize("moved", [0.0, 0.5], ids=["outputs stay", "outputs move"])
def test_a_float_artefact_for_tensorrt_is_float16_where_its_outputs_stay(
    moved: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, _, pairs = trained()
    task = Task(
        model=net, example=pairs[0][0][:1], calibration=[x for x, _ in pairs], evaluate=lambda predict: 0.5
    )
    shop = Workshop(task, dialect_for("tensorrt", "aarch64"), runtime="tensorrt")
    real = builder.difference
    monkeypatch.setattr(builder, "difference", lambda found, exact: moved + real(found, exact))
    built = shop.builder.build(Candidate((), "float32"), shop.dense, tmp_path / "dense", shop.dense.inputs)
    kinds = {tensor.data_type for tensor in onnxfile.load(built.artefact).graph.initializer}
    assert kinds == {TensorProto.FLOAT if moved else TensorProto.FLOAT16}
    assert [path.name for path in built.artefact.parent.iterdir()] == ["model.onnx"]


def test_all_forms_of_the_dense_model_come_from_one_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports: list[Any] = []
    exported = builder.to_onnx
    monkeypatch.setattr(builder, "to_onnx", lambda captured: exports.append(captured) or exported(captured))
    shop = workshop()
    probe = tuple(shop.calibration[0])
    found = [
        shop.builder.build(form, shop.dense, tmp_path / str(number), probe).layers_int8
        for number, form in enumerate(
            (Candidate((), "float32"), Candidate((), "int8", "minmax"), Candidate((), "int8", "mse"))
        )
    ]
    assert found == [(), ("0", "2"), ("0", "2")]
    assert exports == [shop.dense]
    kept = {shop.coupling.groups[0].name: range(6)}
    shop.builder.build(Candidate((), "float32"), shop.prune(kept, "none")[0], tmp_path / "cut", probe)
    assert len(exports) == 2


DIALECTS = {"onnxruntime": "onnxruntime-x86", "openvino": "openvino"}


@dataclass(frozen=True)
class Shapes:
    """branch: does it stay?"""

    name: str
    precision: Any
    branch: bool = True


class Branched(nn.Module):
    """A stream of 8 channels, and 16 in the middle of a residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.up, self.down = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 8, 1)
        self.last = nn.Linear(8, 4)
        nn.init.normal_(self.norm.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(x)).relu()
        x = (x + self.down(self.up(x).relu())).relu()
        found: torch.Tensor = self.last(x.mean((2, 3)))
        return found


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    "case",
    [
        Shapes("narrower in INT8", "int8"),
        Shapes("narrower in float", "float32"),
        Shapes("without the branch", "int8", branch=False),
    ],
    ids=lambda case: case.name,
)
def test_a_draft_has_the_operators_and_shapes_of_what_is_built(
    case: Shapes, runtime: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(16, 3, 8, 8) for _ in range(4)]
    task = Task(
        model=Branched().eval(),
        example=inputs[0][:1],
        calibration=inputs,
        evaluate=lambda predict: 0.5,
    )
    shop = Workshop(task, dialect_for(DIALECTS[runtime], "x86_64"), runtime=runtime)
    stream, inner = sorted(shop.coupling.groups, key=lambda group: group.units)
    (branch,) = shop.coupling.branches
    kept = {stream.name: (0, 2, 3, 5, 6), **({inner.name: (1, 2, 9)} if case.branch else {branch.name: ()})}
    calibrator = "minmax" if case.precision == "int8" else None
    candidate = Candidate(tuple(kept.items()), case.precision, calibrator)
    built = shop.builder.build(
        candidate, shop.prune(kept, "reconstruct")[0], tmp_path / "built", (inputs[0],)
    )
    draft = shop.draft(candidate, tmp_path / "draft")
    assert [path.name for path in sorted(draft.parent.iterdir())] == sorted(
        path.name for path in built.artefact.parent.iterdir()
    )
    assert _operators(draft) == _operators(built.artefact)


def _operators(artefact: Path) -> list[tuple[str, tuple[tuple[int, ...], ...]]]:
    """Kind and the shapes of what it makes and of what it stores, by operator, sorted."""
    if artefact.suffix == ".xml":
        import openvino

        nodes = openvino.Core().read_model(artefact).get_ordered_ops()
        return sorted(
            (node.get_type_name(), tuple(_dims(node.output(at)) for at in range(node.get_output_size())))
            for node in nodes
        )
    graph = onnxfile.load(artefact).graph
    stored = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    return sorted(
        (node.op_type, tuple(stored[name] for name in node.input if name in stored)) for node in graph.node
    )


def _dims(port: Any) -> tuple[int, ...]:
    return tuple(-1 if each.is_dynamic else each.get_length() for each in port.get_partial_shape())
