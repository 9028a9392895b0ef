"""Inputs of a pretrained model without labels: drawn ones, and windows of a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeprune.errors import InputError
from edgeprune.tasks.arrays import MOST_CALIBRATION_ROWS
from edgeprune.tasks.pretrained.encoding import load_tokenizer
from edgeprune.tasks.pretrained.loading import Logits, hushed

TOKENS = 128  # of a window, where nobody says it
_ROWS, _DRAWN_TOKENS, _BATCH = 2, 16, 16
_LARGEST_TEXT = 1 << 26  # characters that are read


def drawn_example(module: Logits, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tokens or pixels that the model takes, two rows, by name.

    Raises `InputError` for a model of other inputs.
    """
    config: Any = module.model.config
    name = str(module.model.main_input_name)
    random = torch.Generator().manual_seed(seed)
    if name == "input_ids":
        words = int(config.get_text_config().vocab_size)
        ids = torch.randint(words, (_ROWS, _DRAWN_TOKENS), generator=random)
        both = ("input_ids", "decoder_input_ids") if config.is_encoder_decoder else ("input_ids",)
        return dict.fromkeys(both, ids)
    if name == "pixel_values" and isinstance(getattr(config, "image_size", None), int):
        shape = (_ROWS, int(getattr(config, "num_channels", 3)), config.image_size, config.image_size)
        return {name: torch.randn(shape, generator=random)}
    raise InputError(
        f"A {type(module.model).__name__} takes {name}, and edgeprune cannot draw an example of it.",
        "Write a FILE.py whose task() loads it, and prune that to a .pt2 file (docs/tasks.md).",
    )


def text_windows(
    module: Logits, folder: Path, data: Path, tokens: int | None
) -> list[dict[str, torch.Tensor]]:
    """Batches of windows of a text file by the folder's tokenizer, [rows, tokens], from all over the text.

    tokens: of a window; None is 128, or what the model takes. Raises `InputError`.
    """
    config: Any = module.model.config
    name = type(module.model).__name__
    if name not in _writers():
        raise InputError(
            f"{data} is a text, and {folder} holds a {name}, which continues none.",
            "Give labelled rows (docs/hugging_face.md), or leave --data out: units then go by their weights.",
        )
    try:
        with data.open(encoding="utf-8") as stream:
            text = stream.read(_LARGEST_TEXT)
    except (OSError, ValueError) as error:
        raise InputError(f"{data} is no text file: {error}", "Give --data a file of UTF-8 text.") from error
    tokenizer = load_tokenizer(folder)
    with hushed():
        ids = np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"], np.int64)
    most = getattr(config.get_text_config(), "max_position_embeddings", None) or TOKENS
    if tokens is not None and tokens > most:
        raise InputError(f"--tokens is {tokens}, and the model takes {most}.", "Give fewer.")
    length = min(TOKENS, most) if tokens is None else tokens
    count = len(ids) // length
    if count < 2:
        raise InputError(
            f"{data} has {len(ids)} tokens, which are no two windows of {length}.",
            "Give a longer text, or fewer --tokens.",
        )
    windows = ids[: count * length].reshape(count, length)
    chosen = np.linspace(0, count - 1, min(count, MOST_CALIBRATION_ROWS)).round().astype(np.int64)
    return [{"input_ids": part} for part in torch.split(torch.from_numpy(windows[chosen]), _BATCH)]


def _writers() -> frozenset[str]:
    """Classes of transformers that continue a text."""
    from transformers.models.auto import modeling_auto

    listed = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    return frozenset(name for one in listed for name in ((one,) if isinstance(one, str) else one))
