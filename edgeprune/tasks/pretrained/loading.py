"""Models from a pretrained folder, as `save_pretrained` writes it: offline, and without its code."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
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
MOST_LABELS = 1_000_000
QUICKLY_BUILT = 1024  # layers that are built without weights in seconds, whatever the files hold
MOST_TIMES = 4  # the stored weights, of which tied ones are stored once
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
HUB_LOGGERS = ("transformers", "datasets", "huggingface_hub")
_SHOWN = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_log = logging.getLogger(__name__)
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


@contextmanager
def answering(what: str) -> Iterator[None]:
    """Call of what a folder brings to encode a row. what: names it. Raises `InputError` where it fails."""
    try:
        with hushed():
            yield
    except Exception as error:
        raise InputError(
            f"{what} fails: {first_line(error)}", "Save the one that the model was trained with, and try it."
        ) from error


def load_pretrained(folder: Path) -> Pretrained:
    """Model of a folder. Raises `InputError`; no code of the folder runs, and no pickle is opened."""
    settings = read_settings(folder)
    files = _weight_files(folder)
    kinds, elements = _tensors(files)
    check_counts(settings, len(kinds), folder)
    with hushed():
        head = head_of(settings, folder)
        config = _config(folder)
        answers, names = answers_of(config, head, folder), class_names(config, folder)
        _check_size(folder, config, head, elements)
        model = _model(folder, config, head)
    return Pretrained(folder, Logits(model).eval(), config, head, answers, names, tuple(_stored(kinds)))


def load_any_head(folder: Path, tell: Callable[[str], object] = lambda sentence: None) -> Logits:
    """Model of a folder with whatever head config.json names, in float32 and evaluation mode, without a
    cache. tell: gets sentences about how it was read.

    Raises `InputError`, also for a class without a head or that transformers does not have.
    """
    settings = read_settings(folder)
    kinds, elements = _tensors(_weight_files(folder))
    check_counts(settings, len(kinds), folder)
    with hushed():
        head = _named_class(settings, folder)
        config = _config(folder)
        if hasattr(config, "use_cache"):
            config.use_cache = False
        _check_size(folder, config, head, elements)
        model = _model(folder, config, head)
    for sentence in _stored(kinds):
        tell(sentence)
    return Logits(model).eval()


def _named_class(settings: Mapping[str, Any], folder: Path) -> Head:
    """The class that config.json names, as a head that it loads by itself. Raises `InputError`."""
    import transformers
    from transformers.models.auto import modeling_auto

    named = settings.get("architectures")
    name = named[0] if isinstance(named, list) and len(named) == 1 else None
    kind = getattr(transformers, name, None) if isinstance(name, str) else None
    if not isinstance(kind, type) or not issubclass(kind, transformers.PreTrainedModel):
        raise InputError(
            f"{folder / CONFIG} names no architecture of transformers.",
            "Save the model with its head: model.save_pretrained(folder).",
        )
    bare = modeling_auto.MODEL_MAPPING_NAMES.values()
    if any(name in ((one,) if isinstance(one, str) else one) for one in bare):
        raise InputError(
            f"{folder} holds a {name}, a model without a head: what it is good for is not known.",
            "Save the model with its head: model.save_pretrained(folder).",
        )
    return Head(kind.__name__, kind.__name__, "", "text")


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
            f"{folder / CONFIG} is not one that this transformers knows: {first_line(error)}",
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
            f"transformers cannot load the weights of {folder}: {first_line(error)}",
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


def _tensors(files: list[Path]) -> tuple[list[str], int]:
    """Number type of each stored tensor, and how many numbers they hold together. Raises `InputError`."""
    from safetensors import SafetensorError, safe_open

    kinds, elements = [], 0
    for path in files:
        try:
            with safe_open(path, framework="numpy") as stream:
                for name in stream.keys():  # noqa: SIM118  no mapping
                    tensor = stream.get_slice(name)
                    kinds.append(str(tensor.get_dtype()))
                    elements += math.prod(tensor.get_shape())
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{path} is no safetensors file that can be read: {first_line(error)}",
                "Save it again with model.save_pretrained(folder).",
            ) from error
    return kinds, elements


def check_counts(settings: Mapping[str, Any], tensors: int, folder: Path) -> None:
    """Refuse a config.json with more layers than there are tensors, or with labels without end.

    Whoever builds such a model builds for ever. tensors: in the files of weights; a small model may name as
    many layers as a large one of its family has, in fields that it does not read. Raises `InputError`.
    """
    for key, value in settings.items():
        if isinstance(value, Mapping):
            check_counts(value, tensors, folder)
            continue
        layers = "layer" in key or "depth" in key
        most = max(tensors, QUICKLY_BUILT) if layers else MOST_LABELS if "label" in key else None
        counts = [each for each in (value if isinstance(value, list) else [value]) if type(each) is int]
        if most is not None and any(count > most for count in counts):
            raise InputError(
                f"{folder / CONFIG} has {key} = {value!r:.60}, and the weights are {tensors} tensors.",
                "Save the model again with model.save_pretrained(folder).",
            )


def _check_size(folder: Path, config: Any, head: Head, elements: int) -> None:
    """Refuse a config.json of a far larger model than the weights are, before memory is taken for it."""
    import transformers

    try:
        with torch.device("meta"):
            kind = getattr(transformers, head.auto)
            model = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
    except Exception:  # loading it says why
        _log.debug("%r: its model has no sizes without its weights", str(folder))
        return
    needed = sum(parameter.numel() for parameter in model.parameters())
    if needed > MOST_TIMES * elements:
        raise InputError(
            f"{folder / CONFIG} describes a model of {needed} weights, and the files hold {elements}.",
            "Save the model again with model.save_pretrained(folder).",
        )


def _stored(kinds: list[str]) -> Iterator[str]:
    """Sentence about weights that are stored in fewer bits than they are computed in."""
    half = [_SHOWN[kind] for kind in ("F16", "BF16", "F64") if kind in kinds]
    if half:
        yield f"The weights are stored as {' and '.join(half)} and were read as float32."


def first_line(error: Exception) -> str:
    """First line of an error of a library, as a sentence."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line if line.endswith((".", "!", "?")) else f"{line[:300]}."
