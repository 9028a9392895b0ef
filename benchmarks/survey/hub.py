"""Architectures of `transformers`: one subject per model type, with the head that it is served with."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.survey.shrink import RECIPES, WORDS, shrink
from benchmarks.survey.subject import Built, NotBuilt, Subject, parameters
from benchmarks.zoo.entry import Served

MOST_PARAMETERS = 12_000_000
# Mappings of transformers, the most specific head first; those that it lacks are not known to that version.
HEADS = (
    *("IMAGE_CLASSIFICATION", "OBJECT_DETECTION", "SEMANTIC_SEGMENTATION", "UNIVERSAL_SEGMENTATION"),
    *("DEPTH_ESTIMATION", "IMAGE_TO_IMAGE", "VIDEO_CLASSIFICATION", "AUDIO_CLASSIFICATION", "CTC"),
    *("AUDIO_XVECTOR", "SPEECH_SEQ_2_SEQ", "TIME_SERIES_PREDICTION", "TIME_SERIES_CLASSIFICATION"),
    *("KEYPOINT_DETECTION", "SEQ_TO_SEQ_CAUSAL_LM", "CAUSAL_LM", "MASKED_LM", "SEQUENCE_CLASSIFICATION"),
    *("IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM", "IMAGE_SEGMENTATION", "INSTANCE_SEGMENTATION"),
    *("ZERO_SHOT_OBJECT_DETECTION", "ZERO_SHOT_IMAGE_CLASSIFICATION", "VISUAL_QUESTION_ANSWERING"),
    *("KEYPOINT_MATCHING", "TEXT_RECOGNITION", "TOKEN_CLASSIFICATION", "QUESTION_ANSWERING"),
    *("MASKED_IMAGE_MODELING", "MASK_GENERATION", "PRETRAINING"),
)
# Names of outputs that show the inside of a model.
INNER = re.compile(r".*hidden_states?|.*attentions?|pooler_output|intermediate_.*|.*_key_values")


def subjects() -> list[Subject]:
    """Every model type with its head, where there is one; the kinds of heads take turns.

    What is a part of another architecture, as the text half of a CLIP is, is none of its own without a head.
    """
    from transformers.models.auto import configuration_auto, modeling_auto

    heads = [getattr(modeling_auto, f"MODEL_FOR_{head}_MAPPING_NAMES", {}) for head in HEADS]
    configs = configuration_auto.CONFIG_MAPPING_NAMES
    made: dict[str, Subject] = {}
    turns: list[tuple[int, str]] = []
    seen: set[str] = set()
    for mapping in (*heads, modeling_auto.MODEL_MAPPING_NAMES):
        new = [kind for kind in mapping if kind not in seen]
        seen.update(new)
        for turn, kind in enumerate(new):
            model = mapping[kind] if isinstance(mapping[kind], str) else mapping[kind][0]
            config = configs.get(kind)
            if config is not None and mapping is modeling_auto.MODEL_MAPPING_NAMES:
                model = other_head(config) or ("" if is_part(config) else model)
            if config is not None and model and model not in made:
                made[model] = Subject(model, "transformers", partial(build, model, config))
                turns.append((turn, model))
    return [made[model] for _, model in sorted(turns, key=lambda each: each[0])]


def is_part(config: str) -> bool:
    """Whether another configuration of the same file has this one inside it."""
    import transformers

    kind = getattr(transformers, config, None)
    others = vars(sys.modules[kind.__module__]).values() if kind is not None else ()
    return any(kind in (getattr(other, "sub_configs", None) or {}).values() for other in others)


def other_head(config: str) -> str:
    """A class with a head that none of the mappings names: the last of that configuration by name."""
    import transformers

    stem = config.removesuffix("Config")
    return max((name for name in transformers.__all__ if re.match(rf"{stem}For[A-Z]", name)), default="")


def warm() -> Built:
    """A model that imports what most architectures need."""
    import transformers

    settings = transformers.LlamaConfig()
    shrink(settings, RECIPES[0])
    return transformers.LlamaForCausalLM(settings).eval(), {"input_ids": _ids(12)}


def build(model: str, config: str) -> Built:
    """The model shrunk by the first recipe with which it takes an example. Raises `NotBuilt`."""
    import transformers

    kind, settings = getattr(transformers, model, None), getattr(transformers, config, None)
    if kind is None or settings is None:
        raise NotBuilt("the class is not importable without further libraries")
    said = ""
    for recipe in RECIPES:
        try:
            made = settings()
            shrink(made, recipe)
            with torch.device("meta"):
                size = parameters(kind._from_config(made) if hasattr(kind, "_from_config") else kind(made))
            if size > MOST_PARAMETERS:
                said = said or f"{size:,} parameters at the smallest"
                continue
            built: nn.Module = kind(made).eval()
        except Exception as error:  # whatever a library says of sizes that do not go together
            said = said or _told(error)
            continue
        found = example_for(built, made)
        if not isinstance(found, str):
            return served(built, found), found
        said = said or found
    raise NotBuilt(said)


def served(model: nn.Module, example: Mapping[str, torch.Tensor]) -> nn.Module:
    """The model with the tensors alone that its head returns, where there are any beside inner ones."""
    with torch.no_grad():
        found = model(**example)
    if not isinstance(found, Mapping):
        return model
    named = tuple(name for name, value in found.items() if isinstance(value, torch.Tensor))
    heads = tuple(name for name in named if not INNER.fullmatch(name))
    return Served(model, heads).eval() if heads and len(heads) < len(found) else model


def example_for(model: nn.Module, config: Any) -> Any:
    """The first candidate that the model takes; what it said of the last one where it takes none."""
    said = ""
    for candidate in _candidates(model, config):
        try:
            with torch.no_grad():
                model(**candidate)
        except Exception as error:  # the next candidate may fit
            said = said or _told(error)
            continue
        return candidate
    return said or "takes none of the inputs that are tried"


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _candidates(model: nn.Module, config: Any) -> Iterator[Mapping[str, torch.Tensor]]:
    names = list(inspect.signature(model.forward).parameters)
    main = getattr(model, "main_input_name", None)
    makers = {
        **{name: _ids(12) for name in ("input_ids", "decoder_input_ids", "labels_ids")},
        "attention_mask": torch.ones(2, 12, dtype=torch.long),
        "bbox": torch.zeros(2, 12, 4, dtype=torch.long),
    }
    texts: list[dict[str, torch.Tensor]] = []
    if "input_ids" in names:
        texts = [{"input_ids": makers["input_ids"]}]
        if "attention_mask" in names:
            texts.insert(0, {"input_ids": makers["input_ids"], "attention_mask": makers["attention_mask"]})
        if "decoder_input_ids" in names:
            texts = [{**text, "decoder_input_ids": _ids(6)} for text in texts]
        if "bbox" in names:
            texts = [{**text, "bbox": makers["bbox"]} for text in texts] + texts
    others = [other for name in names for other in _others(name, config, names)]
    for text in texts[-1:]:
        yield from ({**text, **other} for other in others if "pixel_values" in other)
    if main != "input_ids":
        yield from others
    yield from texts
    yield from others
    for text in texts[-1:]:
        for other in others:
            yield {**text, **other}


def _others(name: str, config: Any, names: list[str]) -> Iterator[dict[str, torch.Tensor]]:
    decoder = {"decoder_input_ids": _ids(6)} if "decoder_input_ids" in names else {}
    vision = getattr(config, "vision_config", None) or getattr(config, "backbone_config", None) or config
    channels = _number(config, "num_channels", _number(vision, "num_channels", 3))
    if name == "pixel_values":
        for side in dict.fromkeys((_side(vision), _side(config), 64, 128, 224)):
            yield {name: torch.randn(2, channels, side, side), **decoder}
        if getattr(config, "num_frames", None):
            yield {name: torch.randn(2, config.num_frames, channels, _side(vision), _side(vision))}
    elif name == "pixel_values_videos":
        yield {
            name: torch.randn(
                2, _number(config, "frames_per_clip", 4), channels, _side(vision), _side(vision)
            )
        }
    elif name == "flattened_patches":
        yield {name: torch.randn(2, 16, _number(vision, "patch_embed_hidden_size", 768) + 2)}
    elif name in ("input_values", "input_features"):
        for length in (4000, 400, 200, 64):
            yield {name: torch.randn(2, length), **decoder}
        bins = _number(config, "num_mel_bins", _number(config, "input_feat_per_channel", 80))
        for length in (
            2 * _number(config, "max_source_positions", 32),
            _number(config, "max_length", 64),
            64,
            128,
        ):
            yield {name: torch.randn(2, bins, length), **decoder}
            yield {name: torch.randn(2, length, bins), **decoder}
    elif name == "past_values":
        yield from _series(config)
    elif name in ("audio_values", "waveform", "input_audio"):
        yield {name: torch.randn(2, 1, 4000)}
        yield {name: torch.randn(2, 4000)}


def _series(config: Any) -> Iterator[dict[str, torch.Tensor]]:
    length, channels = _number(config, "context_length", 32), _number(config, "num_input_channels", 1)
    yield {"past_values": torch.randn(2, length, channels)}
    lags = getattr(config, "lags_sequence", None) or [0]
    whole, future = length + max(lags), _number(config, "prediction_length", 8)
    yield {
        "past_values": torch.randn(2, whole),
        "past_time_features": torch.randn(2, whole, _number(config, "num_time_features", 1)),
        "past_observed_mask": torch.ones(2, whole),
        "future_time_features": torch.randn(2, future, _number(config, "num_time_features", 1)),
        "future_values": torch.randn(2, future),
    }


def _number(config: Any, name: str, default: int) -> int:
    value = getattr(config, name, None)
    return value if isinstance(value, int) and value else default


def _side(config: Any) -> int:
    value = getattr(config, "image_size", None) or getattr(config, "img_size", None)
    if isinstance(value, list | tuple):
        value = value[0]
    return value if isinstance(value, int) else 64


def _ids(length: int) -> torch.Tensor:
    return torch.randint(5, WORDS - 10, (2, length))
