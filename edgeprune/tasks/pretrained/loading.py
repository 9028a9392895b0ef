"""Models from a pretrained folder, as `save_pretrained` writes it: offline, and without its code."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeprune.errors import InputError
from edgeprune.quiet import quiet
from edgeprune.tasks.pretrained.heads import Answers, Head, answers_of, class_names, head_of

CONFIG = "config.json"
LARGEST_CONFIG = 1 << 24  # bytes; those of models with thousands of labels have a few hundred kB
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
HUB_LOGGERS = ("transformers", "datasets", "huggingface_hub")
_SHOWN = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_FLOATS = {torch.float16, torch.bfloat16, torch.float64}


class Logits(nn.Module):
    """A model of transformers that returns its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Logits of inputs by their names in transformers."""
        logits: torch.Tensor = self.model(**inputs, return_dict=True).logits
        return logits


@dataclass(frozen=True)
class Pretrained:
    """Pretrained model: its wrapper in float32 and evaluation mode, and what its config.json tells.

    names: of the labels, in the model's order. remarks: sentences for the answer.
    """

    folder: Path
    module: Logits
    config: Any
    head: Head
    answers: Answers
    names: tuple[str, ...]
    remarks: tuple[str, ...]


def go_offline() -> None:
    """Keep the libraries of Hugging Face from calling anybody, before they are imported."""
    for name in OFFLINE:
        os.environ[name] = "1"


@contextmanager
def hushed() -> Iterator[None]:
    """Silence of the libraries of Hugging Face while they are called; their progress bars go, too."""
    with quiet(*HUB_LOGGERS):
        import transformers

        transformers.utils.logging.disable_progress_bar()
        yield


def load_pretrained(folder: Path) -> Pretrained:
    """Model of a folder. Raises `InputError`; no code of the folder runs, and no pickle is opened."""
    settings = read_settings(folder)
    files = _weight_files(folder)
    with hushed():
        head = head_of(settings, folder)
        config = _config(folder)
        answers, names = answers_of(config, head, folder), class_names(config, folder)
        model = _model(folder, config, head)
    return Pretrained(folder, Logits(model).eval(), config, head, answers, names, tuple(_stored(files)))


def read_settings(folder: Path) -> Mapping[str, Any]:
    """Content of config.json. Raises `InputError`."""
    path = folder / CONFIG
    hint = "Give a folder as model.save_pretrained(folder) and tokenizer.save_pretrained(folder) write it."
    if not path.is_file():
        if (folder / "adapter_config.json").is_file():
            raise InputError(
                f"{folder} holds an adapter without its model.",
                "Merge it: model.merge_and_unload().save_pretrained(folder).",
            )
        raise InputError(f"{folder} has no {CONFIG}, so it is no folder of a pretrained model.", hint)
    if path.stat().st_size > LARGEST_CONFIG:
        raise InputError(f"{path} has more than {LARGEST_CONFIG} bytes.", hint)
    try:
        settings = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}.", hint) from error
    if not isinstance(settings, dict):
        raise InputError(f"{path} is no JSON object.", hint)
    if settings.get("quantization_config") is not None:
        raise InputError(
            f"{folder} is quantised already ({CONFIG} has a quantization_config).",
            "Give the model in float, before it was quantised.",
        )
    return settings


def _weight_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    pickled = sorted(path.name for suffix in ("bin", "pt", "pth") for path in folder.glob(f"*.{suffix}"))
    if pickled:
        raise InputError(
            f"{folder} has its weights as {pickled[0]}, a pickle, which can run any code when it is opened.",
            "Where you trust it, write it again as safetensors: "
            "AutoModel...from_pretrained(folder).save_pretrained(folder).",
        )
    raise InputError(
        f"{folder} has no weights (*.safetensors).", "Save it with model.save_pretrained(folder)."
    )


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise InputError(
            f"{folder / CONFIG} is not one that this transformers knows: {_first_line(error)}",
            "edgeprune runs no code of a folder: give a model of transformers itself, or write a FILE.py.",
        ) from error


def _model(folder: Path, config: Any, head: Head) -> nn.Module:
    import transformers

    try:
        model, told = getattr(transformers, head.auto).from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
        )
    except Exception as error:
        raise InputError(
            f"transformers cannot load the weights of {folder}: {_first_line(error)}",
            "Save it again with model.save_pretrained(folder).",
        ) from error
    missing = sorted(told["missing_keys"]) + sorted(key for key, *_ in told.get("mismatched_keys", ()))
    if missing:
        raise InputError(
            f"{folder} lacks {len(missing)} weights of its head or body, such as {missing[0]!r}; "
            "transformers would make them up.",
            "Give the folder of the model after it was fine-tuned.",
        )
    found: nn.Module = model
    return found.float() if any(each.dtype in _FLOATS for each in found.parameters()) else found


def _stored(files: list[Path]) -> Iterator[str]:
    """Sentence about weights that are stored in fewer bits than they are computed in."""
    from safetensors import safe_open

    kinds: set[str] = set()
    for path in files:
        with safe_open(path, framework="numpy") as stream:
            kinds |= {stream.get_slice(name).get_dtype() for name in stream.keys()}  # noqa: SIM118  no mapping
    half = [_SHOWN[kind] for kind in ("F16", "BF16", "F64") if kind in kinds]
    if half:
        yield f"The weights are stored as {' and '.join(half)} and were read as float32."


def _first_line(error: Exception) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line if line.endswith((".", "!", "?")) else f"{line[:300]}."
