"""Widths that a config says are found by building and trying it, whatever its numbers are called."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from edgeprune.pruning.folder.counterpart import Counterpart
from edgeprune.tasks.pretrained.loading import Logits
from edgeprune.tasks.pretrained.samples import drawn_example

transformers = pytest.importorskip("transformers")


def counterpart(kind: str, **sizes: Any) -> Counterpart:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**sizes)
    names = {"GPT2": "GPT2LMHeadModel", "T5": "T5ForConditionalGeneration"}
    model = getattr(transformers, names.get(kind, f"{kind}ForCausalLM"))(config).eval()
    model.config.use_cache = False
    module = Logits(model).eval()
    return Counterpart.of(module, drawn_example(module))


def found(dense: Counterpart) -> dict[tuple[str, ...], int]:
    return {tuple(".".join(field) for field in knob.fields): knob.steps for knob in dense.knobs().rows}


LLAMA: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def test_heads_are_cut_as_heads_and_not_made_narrower() -> None:
    """Half of the heads has the shapes of heads of half the size, which is another function."""
    assert found(counterpart("Llama", **LLAMA)) == {
        ("hidden_size",): 32,
        ("num_attention_heads", "num_key_value_heads"): 2,
        ("intermediate_size",): 48,
    }


def test_a_width_that_nobody_says_is_said() -> None:
    """GPT-2's inner width is four times the other where the config has none."""
    dense = counterpart("GPT2", vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    assert dense.config.n_inner is None
    assert found(dense) == {("n_embd", "n_head"): 4, ("n_inner",): 128}
    assert dense.knobs().config.n_inner == 128


def test_a_number_that_scales_the_outputs_is_no_width() -> None:
    """T5's tied head divides by the root of its width: the same weights at another width answer otherwise."""
    dense = counterpart("T5", vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    assert found(dense) == {("num_heads",): 4, ("d_ff",): 64}


def test_layers_that_share_what_others_read_stay() -> None:
    """The first layer of T5 holds the positions' biases of all layers."""
    dense = counterpart("T5", vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=3, num_heads=4)
    stacks = {stack.field: [bool(branches) for branches in stack.branches] for stack in dense.stacks()}
    assert stacks == {
        ("num_layers",): [False, True, True],
        ("num_decoder_layers",): [False, True, True],
    }
