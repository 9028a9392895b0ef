"""Heads of pretrained models that a task can be made of, by the class that config.json names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgeprune.errors import InputError

Reads = Literal["text", "words", "image", "audio"]
Answers = Literal["classes", "labels", "values"]  # as in Task.outputs


@dataclass(frozen=True)
class Head:
    """Head of a pretrained model.

    name: in sentences. auto: the class of transformers that loads a model with it. mapping: the table of
    transformers that lists the classes of models with it. reads: what a row of data is.
    """

    name: str
    auto: str
    mapping: str
    reads: Reads


HEADS = (
    Head(
        "sequence classification",
        "AutoModelForSequenceClassification",
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
        "text",
    ),
    Head(
        "token classification",
        "AutoModelForTokenClassification",
        "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
        "words",
    ),
    Head(
        "image classification",
        "AutoModelForImageClassification",
        "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
        "image",
    ),
    Head(
        "audio classification",
        "AutoModelForAudioClassification",
        "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
        "audio",
    ),
)
WORKS = ", ".join(head.name for head in HEADS) + ", and regression by all but the second"


def head_of(settings: Mapping[str, Any], folder: Path) -> Head:
    """Head that `architectures` of config.json names. Raises `InputError` for any other."""
    from transformers.models.auto import modeling_auto

    named = settings.get("architectures")
    if not isinstance(named, list) or len(named) != 1 or not isinstance(named[0], str):
        raise InputError(
            f"{folder / 'config.json'} names no architecture, so what the model's head answers is not known.",
            "Save the model with its head: model.save_pretrained(folder).",
        )
    for head in HEADS:
        listed = getattr(modeling_auto, head.mapping).values()
        if any(named[0] in ((one,) if isinstance(one, str) else one) for one in listed):
            return head
    raise InputError(
        f"{folder} holds a {named[0]}, and edgeprune makes no task of that head from a folder.",
        f"What works: {WORKS}. For other models write a FILE.py whose task() loads it (docs/tasks.md).",
    )


def answers_of(config: Any, head: Head, folder: Path) -> Answers:
    """Meaning of the outputs, by `problem_type` and the number of labels. Raises `InputError`."""
    problem, labels = getattr(config, "problem_type", None), int(config.num_labels)
    if head.reads == "words" or problem == "single_label_classification":
        answers: Answers = "classes"
    elif problem == "multi_label_classification":
        return "labels"
    else:
        answers = "values" if problem == "regression" or labels == 1 else "classes"
    if answers == "values" and labels != 1:
        raise InputError(
            f"{folder} predicts {labels} values at once, and edgeprune makes a task of one from a folder.",
            "Write a FILE.py whose task() loads it (docs/tasks.md).",
        )
    if answers == "classes" and labels < 2:
        raise InputError(
            f"{folder} classifies into {labels} class, which needs no model.",
            'For regression write "problem_type": "regression" into config.json.',
        )
    return answers


def class_names(config: Any, folder: Path) -> tuple[str, ...]:
    """Names of the labels in the model's order, of `id2label`. Raises `InputError` for a wrong one."""
    found = {int(number): str(name) for number, name in config.id2label.items()}
    if sorted(found) != list(range(int(config.num_labels))) or len(set(found.values())) < len(found):
        raise InputError(
            f"{folder / 'config.json'}: id2label does not name labels 0 to {int(config.num_labels) - 1}, "
            "each differently.",
            'Write one name for each, such as "id2label": {"0": "NEGATIVE", "1": "POSITIVE"}.',
        )
    return tuple(found[number] for number in range(len(found)))
