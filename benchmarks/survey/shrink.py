"""Configurations of `transformers`, shrunk by the names of their fields alone: no architecture is named here.

A field's kind (width, heads, layers, ...) is told by its name. What is small by default stays.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

WORDS = 97


@dataclass(frozen=True)
class Recipe:
    """width: every width is at most this; where it is 0, `scale` times smaller, which keeps their ratios."""

    width: int = 0
    scale: int = 1
    layers: int = 2

    def sized(self, value: int, share: float) -> int:
        if self.width:
            return min(value, int(share * self.width))
        return max(value // self.scale, min(value, 8))


RECIPES = (Recipe(64), Recipe(scale=8, layers=12), Recipe(32), Recipe(scale=4, layers=12), Recipe(scale=2))

# The first pattern that matches a field's name: a share of the width, or the largest number.
_RULES: tuple[tuple[str, float | int], ...] = (
    (r".*vocab_size.*|vocab_dim|codebook_size|type_vocab_size", WORDS),
    (r"(q|kv)_lora_rank|.*lora_rank.*", 0.25),
    (r"qk_(rope|nope)_head_dim|v_head_dim", 0.125),
    (r".*(head_dim|head_size|kv_channels)|d_kv|.*dim_head|head_width", 0.25),
    (r".*(num_experts_per_tok|moe_k|moe_topk|num_selected_experts|top_k_experts)", 2),
    (r".*(num|n)_(local_|routed_)?experts|moe_num_experts", 4),
    (r"n_group|topk_group", 1),
    (r".*(num|n)_(shared|group).*experts.*", 1),
    (r".*(intermediate|ffn|inner|d_ff|mlp_dim|feed_?forward|mlp_hidden).*", 4.0),
    (r".*(position_embeddings|n_positions|n_ctx|max_seq_len.*|max_length|context_length)", 64),
    (r"max_(source|target|sequence)_(positions|length)|max_text_len|seq_len.*", 64),
    (r"num_queries|num_object_queries|num_query_tokens|num_detection_tokens", 10),
    (
        r".*(hidden|embed|embedding|model|projection|proj|state|conv|fusion|rnn|lru|ssm|mask_feature)"
        r".*(size|dim|width)s?",
        1.0,
    ),
    (r"dim|width|d_model|n_embd|hidden|feature_size|emb_dim|embd_dim|.*_channels?|.*_dim|d_.*", 1.0),
)
# Those that a recipe which keeps ratios leaves as they are.
_COUNTS: tuple[tuple[str, int], ...] = (
    (r".*(kv|key_value)_heads|n_head_kv|.*num_kv.*heads", 2),
    (r".*heads?|n_head|num_heads?_.*", 4),
    (r"image_size|img_size|input_size|.*resolution", 64),
    (r".*patch_size", 8),
    (r"num_frames", 4),
    (r".*window_size|attention_window|block_size|sliding_window|local_attention", 8),
)
_LAYERS = re.compile(r".*(num|n)_?.*layers?|.*_layers|depth|.*_depth|.*num_blocks|num_stacks|.*layer_num")
_LEFT = re.compile(
    r"num_channels|in_channels|num_input_channels|.*kernel.*|.*stride.*|d_conv|.*groups.*|input_.*"
)


def shrink(config: Any, recipe: Recipe) -> None:
    """Make a configuration small in place, the configurations inside it too."""
    for name, value in list(vars(config).items()):
        if name.startswith("_"):
            continue
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            shrink(value, recipe)
        elif name.endswith(("token_id", "token_index", "token_idx")):
            _set(config, name, _token(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            _set(config, name, limited(name, value, recipe))
        elif isinstance(value, list | tuple) and value and all(type(each) is int for each in value):
            _set(config, name, type(value)(_listed(name, value, recipe)))
    _set(config, "use_cache", False)
    _fix_rotary(config)


def limited(name: str, value: int, recipe: Recipe) -> int:
    """The value that a field of one number gets."""
    if _LEFT.fullmatch(name):
        return value
    for pattern, most in _COUNTS:
        if re.fullmatch(pattern, name):
            return min(value, most) if recipe.width else value
    if _LAYERS.fullmatch(name):
        return min(value, recipe.layers)
    for pattern, limit in _RULES:
        if re.fullmatch(pattern, name):
            return recipe.sized(value, limit) if isinstance(limit, float) else min(value, limit)
    return value


def _listed(name: str, values: Any, recipe: Recipe) -> list[int]:
    """A field with a number per stage: widths grow, heads divide them, depths are one."""
    if re.fullmatch(r".*(depths?|num_layers|layers|blocks|repeats)", name):
        return [min(value, 1 if recipe.width else 2) for value in values]
    if "heads" in name:
        return [min(value, 2 ** min(at, 2)) if recipe.width else value for at, value in enumerate(values)]
    if re.fullmatch(r"image_size|img_size|input_size", name):
        return [min(value, 64) if recipe.width else value for value in values]
    if re.fullmatch(r".*(hidden|embed|channels|dims?|widths?|neck).*", name) and not _LEFT.fullmatch(name):
        if not recipe.width:
            return [recipe.sized(value, 1.0) for value in values]
        grows = len(set(values)) > 1
        return [
            min(value, 16 * 2 ** min(at, 2) if grows else recipe.width // 2)
            for at, value in enumerate(values)
        ]
    return list(values)


def _token(value: Any) -> Any:
    if isinstance(value, list):
        return [_token(each) for each in value]
    if isinstance(value, bool) or not isinstance(value, int) or value < WORDS:
        return value
    return WORDS - 1 - value % 7


def _fix_rotary(config: Any) -> None:
    """Sections of a rotary embedding share half of a head."""
    found = getattr(config, "rope_parameters", None)
    if not isinstance(found, dict) or "mrope_section" not in found:
        return
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    half, parts = int(size * found.get("partial_rotary_factor", 1.0)) // 2, len(found["mrope_section"])
    found["mrope_section"] = [half - half // parts * (parts - 1), *[half // parts] * (parts - 1)]


def _set(config: Any, name: str, value: Any) -> None:
    """Some fields are aliases that cannot be set; they follow others."""
    try:
        setattr(config, name, value)
    except (AttributeError, NotImplementedError, ValueError, TypeError):
        return
