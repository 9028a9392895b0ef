"""The libraries whose architectures are surveyed, each when it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec

from benchmarks.survey import hub, torchvision_ops, vision
from benchmarks.survey.subject import Subject

torchvision_ops.declare()  # before anything imports torchvision


@dataclass(frozen=True)
class Library:
    name: str  # of the package
    subjects: Callable[[], list[Subject]]


LIBRARIES = (
    Library("transformers", hub.subjects),
    Library("torchvision", vision.torchvision_subjects),
    Library("timm", vision.timm_subjects),
)


def subjects() -> Iterator[Subject]:
    """All architectures of the libraries that are installed."""
    for library in LIBRARIES:
        if find_spec(library.name) is not None:
            yield from library.subjects()
