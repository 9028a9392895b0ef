"""Meanings of a model's outputs: what the task says, then what is certain, then nothing.

Certain is what the captured graph shows (an output that a softmax writes), what the task's loss does with an
output (`heard.py`), and, where the task brings no loss, what its targets can only be: class numbers, one for
each place, or numbers outside of 0 to 1. An output without a meaning is compared as values are, by every
difference: that is never blind, only less sharp than a divergence where the output holds class scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured
from edgeprune.graph.fx import argument, op_name
from edgeprune.records.meaning import Meaning, SaidOutputs

Said = str | Sequence[str] | Mapping[str, str] | None
_LOGITS = "aten.log_softmax"
_PROBABILITIES = "aten.softmax"


@dataclass(frozen=True)
class Outputs:
    """Tensors of a model's answer, in the order of `flatten`: their names and their meanings.

    names: as the model gives them: "logits", "1", "boxes.0"; "" for an answer that is one tensor.
    said: whether the task says so itself. decided: whether it would not be known without its word.
    """

    names: tuple[str, ...]
    meanings: tuple[Meaning, ...]
    said: tuple[bool, ...]
    decided: tuple[bool, ...] = ()

    @property
    def words(self) -> SaidOutputs:
        """Words of the task that decide what outputs are, with the axes as they were settled."""
        if not any(self.decided):
            return SaidOutputs()
        pairs = zip(self.meanings, self.decided, strict=True)
        return SaidOutputs(tuple(str(meaning) if decided else "" for meaning, decided in pairs))

    def called(self, at: int) -> str:
        """An output, for a sentence: `The output`, `Output 'logits'`."""
        return f"Output {self.names[at]!r}" if self.names[at] else "The output"


def named(answer: Any) -> list[tuple[str, torch.Tensor]]:
    """Tensors of a structure by their names in it, in the order of `flatten`."""
    leaves, _ = pytree.tree_flatten_with_path(answer)
    return [
        (".".join(_key(key) for key in path), leaf) for path, leaf in leaves if isinstance(leaf, torch.Tensor)
    ]


def understood(captured: Captured, answer: Any, said: Said, heard: Sequence[Meaning | None] = ()) -> Outputs:
    """Meanings of the outputs: as said, else as the graph shows, else as `heard` of the loss or the targets.

    answer: of the dense model, as `Captured.answer` gives it. heard: by output, None where nothing is
    certain.
    Raises `InputError` for names and axes that the outputs do not have, and for classes, probabilities or
    embeddings whose axis could be several.
    """
    tensors = named(answer)
    names = tuple(name for name, _ in tensors)
    words = spoken(said, names)
    shown = _shown(captured)
    numbers = [tensor.is_floating_point() for _, tensor in tensors]
    found, decided = [], []
    for at, (_, tensor) in enumerate(tensors):
        certain = [each for each in (shown[at], *heard[at : at + 1]) if each is not None]
        meaning = words[at] or (certain[0] if certain else Meaning(None))
        beside = not numbers[at] and any(numbers) and words[at] is None
        if beside or not tensor.numel():  # decisions beside the scores that they are made of; nothing at all
            meaning = Meaning("none")
        found.append(_settled(Outputs(names, (), ()).called(at), meaning, tensor, certain))
        decided.append(words[at] is not None and found[-1:] != certain[:1])
    if all(meaning.kind == "none" for meaning in found):
        raise InputError(
            "Task.outputs says 'none' of every output, so nothing tells a good model from a bad one.",
            "Say what one of them is at least.",
        )
    return Outputs(names, tuple(found), tuple(each is not None for each in words), tuple(decided))


def spoken(said: Said, names: tuple[str, ...]) -> list[Meaning | None]:
    """Meanings that the task says, by output; a name covers all outputs below it."""
    if said is None:
        return [None] * len(names)
    if isinstance(said, str):
        return [Meaning.read(said)] * len(names)
    shown = ", ".join(name or "one tensor" for name in names)
    if isinstance(said, Mapping):
        words = {str(name): Meaning.read(word) for name, word in said.items()}
        for name in words:
            if not any(_covers(name, each) for each in names):
                raise InputError(
                    f"Task.outputs says what {name!r} is, and the model returns {shown}.",
                    "Use the names of the model's outputs; a tuple's are 0, 1 and so on.",
                )
        return [next((words[name] for name in words if _covers(name, each)), None) for each in names]
    if len(said) != len(names):
        raise InputError(
            f"Task.outputs says what {len(said)} outputs are, and the model returns {len(names)}: {shown}.",
            "Give one word for each in this order, one for all, or a dict by name.",
        )
    return [Meaning.read(word) for word in said]


def _settled(called: str, meaning: Meaning, tensor: torch.Tensor, certain: Sequence[Meaning]) -> Meaning:
    """Meaning with its axis counted from the front, or found where no other is possible."""
    rank, shape = tensor.dim(), ["N", *tensor.shape[1:]]
    told = f"{called} has shape [{', '.join(map(str, shape))}]"
    if meaning.axis is not None:
        axis = meaning.axis % rank if -rank <= meaning.axis < rank else 0
        if axis == 0:
            raise InputError(
                f"{told}, and Task.outputs says '{meaning}'.", "Name an axis behind the batch, from 1 on."
            )
        return Meaning(meaning.kind, axis)
    if meaning.kind in (None, "none", "labels", "values", "probabilities"):
        return meaning  # the axis of probabilities shows in what they sum to
    known = {each.axis for each in certain if each.kind == meaning.kind and each.axis is not None}
    possible = sorted(known) or [axis for axis in range(1, rank) if tensor.shape[axis] > 1]
    if len(possible) == 1:
        return Meaning(meaning.kind, possible[0])
    if not possible:
        raise InputError(
            f"{told}, which holds no {meaning.kind}.",
            "A single score is 'labels' where it is a logit, 'values' where it is a number to predict.",
        )
    raise InputError(
        f"{told}, and {meaning.kind} could be along axis {' or '.join(map(str, possible))}.",
        f"Say which with Task.outputs, as in '{meaning.kind}:{possible[0]}' or '{meaning.kind}:-1'.",
    )


def _shown(captured: Captured) -> list[Meaning | None]:
    """Meanings that the graph shows: outputs that a softmax over one axis writes."""
    last = next(node for node in captured.module.graph.nodes if node.op == "output")
    found: list[Meaning | None] = []
    for value in pytree.tree_leaves(last.args[0]):
        if not isinstance(value, Node) or not isinstance(value.meta.get("val"), torch.Tensor):
            continue
        meaning = None
        name = op_name(value) if value.op == "call_function" else ""
        if name in (_LOGITS, _PROBABILITIES):
            axis = argument(value, 1, "dim") % value.meta["val"].dim()
            # The logarithms of probabilities are scores whose softmax gives these probabilities.
            meaning = Meaning("classes" if name == _LOGITS else "probabilities", axis) if axis else None
        found.append(meaning)
    return found


def _covers(name: str, output: str) -> bool:
    return output == name or output.startswith(f"{name}.")


def _key(key: Any) -> str:
    """Name of one step into a structure: a dict's key, a field, a place."""
    return str(next(getattr(key, part) for part in ("key", "name", "idx") if hasattr(key, part)))
