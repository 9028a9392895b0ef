"""The libraries whose architectures are surveyed, each when it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec

from benchmarks.survey import hub, medical, torchvision_ops, vision
from benchmarks.survey.subject import Subject

torchvision_ops.declare()  # before anything imports torchvision


LIBRARIES: dict[str, Callable[[], list[Subject]]] = {  # by the name of the package
    "transformers": hub.subjects,
    "torchvision": vision.torchvision_subjects,
    "timm": vision.timm_subjects,
    "pytorchcv": vision.pytorchcv_subjects,
    "monai": medical.subjects,
}


def subjects(names: Iterable[str] = LIBRARIES) -> Iterator[Subject]:
    """All architectures of those of these libraries that are installed."""
    for name in names:
        if find_spec(name) is not None:
            yield from LIBRARIES[name]()
