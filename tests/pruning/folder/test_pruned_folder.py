"""A pruned pretrained model is a folder that transformers loads again, and answers as the cut graph does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeprune import InputError
from edgeprune.export import to_onnx
from edgeprune.graph.capture import capture
from edgeprune.pruning.folder.pruned_folder import prune_folder
from edgeprune.tasks.pretrained.loading import Logits, load_any_head
from edgeprune.tasks.pretrained.samples import drawn_example

transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
OF_GPT2 = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "eos_token_id": 1}
OF_T5 = {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
# Class, class of its config, sizes, and the fields that one ratio and one layer change.
FAMILIES: dict[str, tuple[str, str, dict[str, Any], set[str], str | None]] = {
    "llama": (
        *("LlamaForCausalLM", "LlamaConfig", GROUPED),
        {"hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size"},
        "num_hidden_layers",
    ),
    "qwen3": (
        *("Qwen3ForCausalLM", "Qwen3Config", {**GROUPED, "head_dim": 8}),
        {"hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size"},
        "num_hidden_layers",
    ),
    "mistral": (
        *("MistralForCausalLM", "MistralConfig", GROUPED),
        {"hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size"},
        "num_hidden_layers",
    ),
    "phi": (
        *("PhiForCausalLM", "PhiConfig", SIZES),
        {"hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size"},
        "num_hidden_layers",
    ),
    "gpt2": (
        *("GPT2LMHeadModel", "GPT2Config", OF_GPT2),
        {"n_embd", "n_head", "n_inner"},
        "n_layer",
    ),
    "t5": ("T5ForConditionalGeneration", "T5Config", OF_T5, {"num_heads", "d_ff"}, "num_layers"),
    "bert": (
        *("BertForSequenceClassification", "BertConfig", SIZES),
        {"hidden_size", "num_attention_heads", "intermediate_size"},
        None,
    ),
    "mixtral": (
        *(
            "MixtralForCausalLM",
            "MixtralConfig",
            {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
        ),
        {"hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size"},
        "num_hidden_layers",
    ),
}


def written(name: str, folder: Path) -> Path:
    kind, config, sizes, *_ = FAMILIES[name]
    torch.manual_seed(0)
    getattr(transformers, kind)(getattr(transformers, config)(**sizes)).save_pretrained(folder)
    (folder / "tokenizer.json").write_text('{"told": "as it was"}', "utf-8")
    generation = folder / "generation_config.json"
    told = json.loads(generation.read_text("utf-8")) if generation.exists() else {}
    generation.write_text(json.dumps({**told, "max_new_tokens": 7}), "utf-8")
    return folder


def loaded(folder: Path) -> Logits:
    return load_any_head(folder)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).detach().abs().max() / other.detach().abs().max())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folder_loads_again_and_answers_as_the_graph_does(name: str, tmp_path: Path) -> None:
    source = written(name, tmp_path / "whole")
    module = loaded(source)
    example = drawn_example(module, seed=1)
    pruned = prune_folder(module, example, 0.4)
    place = pruned.save(source, tmp_path / "small")
    fields = FAMILIES[name][3]
    assert pruned.changed
    assert set(pruned.changed) <= fields
    assert pruned.params < 0.75 * pruned.dense_params
    config = json.loads((place / "config.json").read_text("utf-8"))
    assert all(config[field] == new for field, (_, new) in pruned.changed.items())
    for along in ("tokenizer.json", "generation_config.json"):
        assert (place / along).read_bytes() == (source / along).read_bytes()
    before = json.loads((source / "config.json").read_text("utf-8"))
    assert config.get("use_cache") == before.get("use_cache"), "it is off for the capture alone"
    again = loaded(place)
    other = drawn_example(again, seed=5)
    assert apart(again(**other), pruned.captured.module(**other)) < 1e-5
    assert sum(each.numel() for each in again.parameters()) == sum(
        each.numel() for each in pruned.model.parameters()
    )


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_whole_layers_leave_and_the_others_move_up(name: str, tmp_path: Path) -> None:
    source = written(name, tmp_path / "whole")
    module = loaded(source)
    example = drawn_example(module, seed=1)
    calibration = [tuple(example.values())] * 3
    pruned = prune_folder(module, example, 0.0, "l2", calibration, layers=1)
    again = loaded(pruned.save(source, tmp_path / "small"))
    assert list(pruned.changed.items()) == [(FAMILIES[name][4], (2, 1))]
    other = drawn_example(again, seed=5)
    assert apart(again(**other), pruned.captured.module(**other)) < 1e-5


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_what_is_generated_and_served_is_of_the_pruned_model(name: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    source = written(name, tmp_path / "whole")
    module = loaded(source)
    pruned = prune_folder(module, drawn_example(module), 0.4)
    again = loaded(pruned.save(source, tmp_path / "small"))
    example = drawn_example(again, seed=5)
    said = {"max_new_tokens": 6, "do_sample": False, "use_cache": True}
    own = pruned.model.eval().generate(**example, **said)
    assert torch.equal(again.model.generate(**example, **said), own)
    session = runtime.InferenceSession(to_onnx(capture(again, example)).SerializeToString())
    (found,) = session.run(None, {key: value.numpy() for key, value in example.items()})
    assert apart(torch.from_numpy(found), again(**example)) < 1e-4


def test_the_same_again_is_the_same(tmp_path: Path) -> None:
    source = written("llama", tmp_path / "whole")
    files = []
    for place in ("one", "two"):
        module = loaded(source)
        small = prune_folder(module, drawn_example(module), 0.4).save(source, tmp_path / place)
        files.append((small / "model.safetensors").read_bytes())
    assert files[0] == files[1]


def test_too_many_layers_and_a_ratio_out_of_reach_are_refused(tmp_path: Path) -> None:
    module = loaded(written("bert", tmp_path / "whole"))
    example = drawn_example(module)
    with pytest.raises(InputError, match="1 layers are to be dropped, and 0 of this BertForSequence"):
        prune_folder(module, example, 0.1, layers=1)
    with pytest.raises(InputError, match=r"A ratio of 0.99 cannot be reached: 0.\d\d is the most"):
        prune_folder(module, example, 0.99)
    with pytest.raises(InputError, match=r"The ratio is 1\.5"):
        prune_folder(module, example, 1.5)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    source = written("bert", tmp_path / "whole")
    module = loaded(source)
    pruned = prune_folder(module, drawn_example(module), 0.3)
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="is there already"):
        pruned.save(source, tmp_path / "there")
    with pytest.raises(InputError, match="is no folder"):
        pruned.save(source, tmp_path / "none" / "small")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there", "whole"]
