"""Architectures of libraries that make models by a name, one of each family: torchvision, timm, pytorchcv."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.survey.subject import Built, NotBuilt, Subject, parameters

MOST_PARAMETERS = 12_000_000
_SIDES = (64, 224, 256, 32)  # the last for those that are made for so small images
_LARGE = 256  # a library's own side above this is asked to be this


def torchvision_subjects() -> list[Subject]:
    """The smallest model of each of torchvision's families: classifiers, segmentation, detection, video."""
    from torchvision import models

    names = [name for name in models.list_models() if not name.startswith("quantized")]
    made = []
    for name in one_of_each(names, first_word):
        taken = inspect.signature(models.get_model_builder(name)).parameters
        none = {key: None for key in ("weights", "weights_backbone") if key in taken}
        made.append(Subject(name, "torchvision", partial(build, partial(models.get_model, **none), name)))
    return made


def timm_subjects() -> list[Subject]:
    """The first model of each of timm's families that is small enough."""
    import timm

    return [
        Subject(name, "timm", partial(build, timm.create_model, name))
        for name in one_of_each(timm.list_models(), first_word)
    ]


def pytorchcv_subjects() -> list[Subject]:
    """The first model of each of pytorchcv's files."""
    from pytorchcv.model_provider import _models

    return [
        Subject(name, "pytorchcv", partial(build, _sized, name))
        for name in one_of_each(_models, lambda name: _models[name].__module__)
    ]


def _sized(name: str) -> nn.Module:
    """pytorchcv's model, for small images where its own are large ones of streets."""
    from pytorchcv.model_provider import get_model

    model: nn.Module = get_model(name)
    if max(getattr(model, "in_size", None) or (0,)) > _LARGE:
        model = get_model(name, in_size=(_LARGE, _LARGE))
    return model


def first_word(name: str) -> str:
    return re.split(r"[_\d]", name)[0]


def one_of_each(names: Iterable[str], family: Callable[[str], str]) -> list[str]:
    """The name of each family that sounds smallest, or the first."""
    found: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (_smallness(name), name)):
        found.setdefault(family(name), name)
    return list(found.values())


def _smallness(name: str) -> int:
    words = ("test", "atto", "femto", "pico", "nano", "xxt", "tiny", "_t", "400mf", "small", "_s", "18", "11")
    return next((at for at, word in enumerate((*words, "base")) if word in name), len(words) + 1)


def build(make: Callable[..., Any], name: str) -> Built:
    """The model with an image, or a film, that it takes. Raises `NotBuilt`."""
    try:
        with torch.device("meta"):
            size = parameters(make(name))
        if size > MOST_PARAMETERS:
            raise NotBuilt(f"{size:,} parameters")
        model = make(name).eval()
    except NotBuilt:
        raise
    except Exception as error:  # whatever a library says
        raise NotBuilt(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    said = ""
    for shape in (*((2, 3, side, side) for side in _SIDES), (2, 3, 16, 112, 112), (2, 3, 16, 224, 224)):
        try:
            with torch.no_grad():
                model(torch.randn(shape))
        except Exception as error:  # the next size may fit
            said = said or f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            continue
        return model, torch.randn(shape)
    raise NotBuilt(said)
