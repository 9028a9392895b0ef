"""Graphs whose sequences have several lengths: captured, analysed, cut, exported and proven at each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import edgeprune
from edgeprune.errors import InputError
from edgeprune.export import prove_equal, to_onnx
from edgeprune.graph import onnxfile
from edgeprune.graph.capture import Captured, capture
from edgeprune.graph.cost import count
from edgeprune.graph.coupling import analyse
from edgeprune.graph.fx import concrete
from edgeprune.graph.length import alike, joined
from edgeprune.graph.surgery import cut
from edgeprune.records.lengths import stated_lengths
from tests.support.sequences import LENGTHS, Encoder, Recorder, bert, tokens

Inputs = dict[str, Tensor]


def sounds(rows: int, length: int) -> Inputs:
    return {"samples": torch.randn(rows, length, generator=torch.Generator().manual_seed(1))}


MODELS: Mapping[str, tuple[Callable[[], nn.Module], Callable[[int, int], Inputs]]] = {
    "an encoder": (Encoder, tokens),
    "a BERT": (bert, tokens),
    "a recorder": (Recorder, sounds),
}


def captured_at(model: nn.Module, example: Inputs, lengths: Any = LENGTHS) -> Captured:
    shapes = {name: tuple(tensor.shape) for name, tensor in example.items()}
    return capture(model, example, 1, stated_lengths(lengths, 1, shapes))


def halves(captured: Captured) -> Captured:
    """The graph with every second unit of each group."""
    coupling = analyse(captured)
    return cut(captured, coupling, {group.name: range(0, group.units, 2) for group in coupling.groups})


@pytest.mark.parametrize("name", MODELS)
def test_it_is_analysed_and_cut_as_the_same_model_of_one_length(name: str) -> None:
    make, inputs = MODELS[name]
    model = make().eval()
    varying = captured_at(model, inputs(2, 16))
    coupling, smaller = analyse(varying), halves(varying)
    for length in LENGTHS:
        query = inputs(2, length)
        fixed = capture(model, query, 1)
        if length == max(LENGTHS):
            own = analyse(fixed)
            assert {g.name: g.units for g in coupling.groups} == {g.name: g.units for g in own.groups}
            assert [each.name for each in coupling.frozen] == [each.name for each in own.frozen]
            assert count(varying, coupling).macs({}) == count(fixed, own).macs({})
        # Of a shorter one, the positions of a learnt table that are left over are a group of their own.
        groups = [group for group in analyse(fixed).groups if len({a.parameter for a in group.axes}) > 1]
        wanted = cut(fixed, analyse(fixed), {group.name: range(0, group.units, 2) for group in groups})
        assert torch.equal(smaller.run(*query.values())[0], wanted.run(*query.values())[0])


@pytest.mark.parametrize("name", MODELS)
def test_a_cut_model_is_proven_in_onnx_runtime_at_each_length(name: str) -> None:
    make, inputs = MODELS[name]
    smaller = halves(captured_at(make().eval(), inputs(2, 16)))
    model = to_onnx(smaller)
    for value in model.graph.input:
        assert [dim.dim_param for dim in value.type.tensor_type.shape.dim] == ["batch", "length"]
    session = onnxruntime.InferenceSession(onnxfile.content(model))
    for rows, length in ((1, 8), (3, 8), (3, 11), (5, 16)):
        query = inputs(rows, length)
        (found,) = session.run(None, {key: tensor.numpy() for key, tensor in query.items()})
        assert np.allclose(found, smaller.run(*query.values())[0].detach(), atol=1e-5)


def test_a_file_that_takes_one_length_is_no_file_of_several() -> None:
    model, example = Recorder().eval(), sounds(2, 16)
    with pytest.raises(InputError, match=r"samples \[2, 8\]"):
        prove_equal(captured_at(model, example), to_onnx(capture(model, example, 1)))


def test_the_number_of_a_length_is_told_from_all_widths() -> None:
    captured = captured_at(Encoder().eval(), tokens(2, 16))
    ids, mask = captured.module.graph.find_nodes(op="placeholder")
    assert [concrete(size) for size in ids.meta["val"].shape[1:]] == [13], "a prime that is no width"
    assert concrete(mask.meta["val"].shape[1], 8) == 8

    wide = captured_at(Wide(13, 6, step=2).eval(), sounds(2, 16)).module.graph
    sizes = [node.meta["val"].shape for node in wide.nodes if node.op == "call_function"]
    assert {concrete(shape[1]) for shape in sizes if len(shape) > 1} == {8, 3}, (
        "of 16: a width is 13, and another is half of 11"
    )
    with pytest.raises(InputError, match=r"lengths 2 and 3 cannot be told from the model's widths"):
        captured_at(Wide(2, 3).eval(), sounds(2, 3), (2, 3))


class Wide(nn.Module):
    """Three class scores of every `step`-th sample, by way of some widths."""

    def __init__(self, one: int, two: int, step: int = 1) -> None:
        super().__init__()
        self.step = step
        self.layers = nn.Sequential(nn.Linear(1, one), nn.Linear(one, two), nn.Linear(two, 3))

    def forward(self, samples: Tensor) -> Tensor:
        return self.layers(samples[:, :: self.step, None]).mean(1)


class Counted(nn.Module):
    def forward(self, samples: Tensor) -> Tensor:
        return samples.view(-1, len(samples[0])).sum(1, keepdim=True)


class Bounded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(12))

    def forward(self, samples: Tensor) -> Tensor:
        return (samples + self.places[: samples.shape[1]]).sum(1, keepdim=True)


def test_a_length_that_is_taken_for_a_number_is_refused_with_its_line_and_the_way_on() -> None:
    with pytest.raises(
        InputError, match=r"takes the length, .* \(.*test_length\.py, line \d+: return samples.view"
    ) as caught:
        captured_at(Counted().eval(), sounds(2, 16))
    assert "leave lengths out, and pad to 16" in caught.value.hint
    assert not capture(Counted().eval(), sounds(2, 16), 1).fixed_batch, "of one length it is captured"


def test_lengths_that_a_model_does_not_have_are_refused() -> None:
    captured = captured_at(Bounded().eval(), sounds(2, 12), (8, 12))
    assert captured.run(*sounds(1, 8).values())[0].shape == (1, 1)
    with pytest.raises(InputError):
        captured_at(Bounded().eval(), sounds(2, 16))


class Paired(nn.Module):
    def forward(self, samples: Tensor) -> Tensor:
        return samples.view(len(samples), -1, 4).sum((1, 2))[:, None]


def test_a_model_of_some_lengths_alone_is_refused_with_the_way_on() -> None:
    with pytest.raises(InputError) as caught:
        captured_at(Paired().eval(), sounds(2, 16))
    assert "leave lengths out, and pad to 16" in caught.value.hint


def test_a_pruned_module_takes_every_length_and_is_saved_so(tmp_path: Any) -> None:
    example = tokens(4, 16)
    data = [tokens(8, LENGTHS[at % 2], seed=at) for at in range(4)]
    pruned = edgeprune.prune(Encoder().eval(), example, 0.5, calibration=data, lengths=LENGTHS, length_dims=1)
    assert pruned.lengths == LENGTHS
    assert pruned.params < pruned.dense_params
    loaded = torch.export.load(pruned.save(tmp_path / "small.pt2")).module()
    for length in (8, 11, 16):
        query = tokens(3, length)
        assert torch.allclose(loaded(**query), pruned.module(**query), atol=1e-6)
    with pytest.raises(InputError, match=r"\[8, 9\], \[8, 9\], which are of none of the lengths 8 and 16"):
        edgeprune.prune(Encoder(), example, 0.5, calibration=[tokens(8, 9)], lengths=LENGTHS, length_dims=1)


def test_rows_are_joined_with_rows_of_their_length() -> None:
    batches = [tuple(tokens(rows, length).values()) for rows, length in ((2, 8), (3, 16), (4, 8))]
    assert [[len(batch[0]) for batch in group] for group in alike(batches)] == [[2, 4], [3]]
    assert [[tuple(x.shape) for x in batch] for batch in joined(batches)] == [[(6, 8)] * 2, [(3, 16)] * 2]
