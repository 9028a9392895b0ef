"""Architectures of libraries whose models are made by a name: torchvision and timm, one of each family."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.survey.subject import Built, NotBuilt, Subject, parameters

MOST_PARAMETERS = 12_000_000
_SIDES = (64, 224, 256)


def torchvision_subjects() -> list[Subject]:
    """The smallest model of each of torchvision's families: classifiers, segmentation, video."""
    from torchvision import models

    names = [name for name in models.list_models() if not name.startswith("quantized")]
    make = partial(models.get_model, weights=None, weights_backbone=None)
    plain = partial(models.get_model, weights=None)
    return [
        Subject(name, "torchvision", partial(build, make if "_resnet" in name else plain, name))
        for name in _one_of_each(names)
    ]


def timm_subjects() -> list[Subject]:
    """The first model of each of timm's families that is small enough."""
    import timm

    return [
        Subject(name, "timm", partial(build, timm.create_model, name))
        for name in _one_of_each(timm.list_models())
    ]


def _one_of_each(names: list[str]) -> list[str]:
    """The shortest name, then the first, of those that begin with the same word."""
    found: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (_smallness(name), name)):
        found.setdefault(re.split(r"[_\d]", name)[0], name)
    return list(found.values())


def _smallness(name: str) -> int:
    words = ("test", "atto", "femto", "pico", "nano", "xxt", "tiny", "_t", "small", "_s", "18", "11", "base")
    return next((at for at, word in enumerate(words) if word in name), len(words))


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
