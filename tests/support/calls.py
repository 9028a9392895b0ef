"""Random calls of an ATen operation, drawn from its schema: usual and unusual arguments alike.

Defaults are left out or written out, optional arguments are None, dimensions are negative, lists are empty,
and sizes are the batch where numbers are usual. Most draws are no legal call; `legal` finds those that are.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Tensor:
    """A tensor of the model, by its name in `Call.tensors`."""

    name: str


@dataclass(frozen=True)
class Samples:
    """The number of samples, times something."""

    times: int = 1


SHAPES = {
    "rows": (2, 6, 8),
    "image": (2, 8, 4, 4),
    "flat": (2, 8),
    "heads": (2, 2, 6, 4),
    "places": (2, 6, 8),
    "vector": (8,),
    "matrix": (8, 8),
    "filters": (8, 8, 3, 3),
    "grouped": (8, 4, 3, 3),
    "few": (3,),
    "input": (2, 6, 5),
}
NAMES = list(SHAPES)
_LEFT_OUT = (
    "dtype",
    "layout",
    "device",
    "pin_memory",
    "memory_format",
)  # numbers in a schema; torch may crash


class Call(nn.Module):
    """One operation on what layers of eight units give, read by layers where its result has rows."""

    def __init__(self, operation: Any, args: list[Any], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.operation, self.given = operation, (args, kwargs)
        self.rows, self.image = nn.Linear(5, 8), nn.Conv2d(3, 8, 3, padding=1)
        self.vector, self.matrix = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.randn(8, 8))
        self.filters, self.grouped = (nn.Parameter(torch.randn(SHAPES[n])) for n in ("filters", "grouped"))
        self.register_buffer("few", torch.tensor([0, 3, 2]))
        self.read_rows, self.read_image = nn.Linear(8, 2), nn.Conv2d(8, 2, 1)
        self.readers = nn.ParameterDict()

    def tensors(self, x: torch.Tensor, z: torch.Tensor) -> dict[str, torch.Tensor]:
        rows, image = self.rows(x), self.image(z)
        made = {"rows": rows, "image": image, "flat": rows.mean(1), "places": rows.abs().argsort(-1)}
        heads = rows.unflatten(-1, (2, 4)).transpose(1, 2)
        own = {name: getattr(self, name) for name in ("vector", "matrix", "filters", "grouped", "few")}
        return {**made, **own, "heads": heads, "input": x}

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, ...]:
        tensors = self.tensors(x, z)

        def filled(value: Any) -> Any:
            if isinstance(value, Tensor):
                return tensors[value.name]
            if isinstance(value, Samples):
                return x.shape[0] * value.times
            return [filled(each) for each in value] if isinstance(value, list) else value

        args, kwargs = self.given
        result = self.operation(*filled(args), **{name: filled(value) for name, value in kwargs.items()})
        read = self.read_rows(tensors["rows"]).sum(1) + self.read_image(tensors["image"]).sum((2, 3))
        parts = result if isinstance(result, list | tuple) else [result]
        return (read, *(self.read(place, part, x) for place, part in enumerate(parts)))

    def read(self, place: int, part: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """What a layer makes of a result that has a row for each sample; any other result as it is."""
        if part.dim() < 2 or part.shape[0] != x.shape[0] or not part.is_floating_point():
            return part
        rows = part.flatten(1)
        if str(place) not in self.readers:
            self.readers[str(place)] = nn.Parameter(torch.randn(3, rows.shape[1]))
        return F.linear(rows, self.readers[str(place)])


EXAMPLES = tuple((torch.randn(n, 6, 5), torch.randn(n, 3, 4, 4)) for n in (2, 3))


def is_drawn(operation: torch._ops.OpOverload) -> bool:
    """Whether calls of an overload can be drawn: no outputs to write to, no names of dimensions."""
    schema = operation._schema
    return not any(each.is_out for each in schema.arguments) and "Dimname" not in str(schema)


def legal(operation: torch._ops.OpOverload, seed: int, tries: int = 80) -> Iterator[Call]:
    """Calls that run with two samples and with three, from one seed."""
    source = random.Random(f"{operation} {seed}")
    for _ in range(tries):
        torch.manual_seed(seed)
        model = Call(operation, *_arguments(operation, source)).eval()
        try:
            with torch.no_grad():
                for example in EXAMPLES:
                    model(*example)
        except Exception:  # whatever torch says of a call that is not legal
            continue
        yield model


def _arguments(operation: torch._ops.OpOverload, source: random.Random) -> tuple[list[Any], dict[str, Any]]:
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    first = ""
    for place, declared in enumerate(operation._schema.arguments):
        if declared.name in _LEFT_OUT or (declared.has_default_value() and source.random() < 0.4):
            continue
        value = _value(str(declared.type), declared.name, first, source)
        drawn = value[0] if isinstance(value, list) and value else value
        first = first or (drawn.name if isinstance(drawn, Tensor) else "")
        if declared.kwarg_only or len(args) < place:
            kwargs[declared.name] = value
        else:
            args.append(value)
    return args, kwargs


def _value(kind: str, name: str, first: str, source: random.Random) -> Any:
    if kind.startswith("Optional["):
        return None if source.random() < 0.3 else _value(kind[9:-1], name, first, source)
    if kind == "List[Tensor]":
        chosen = source.choice(NAMES[:4])
        return [Tensor(chosen)] * source.randint(1, 3)
    if kind.startswith("List["):
        return _list(kind[5:-1], name, first, source)
    if kind == "Tensor":
        alike = [each for each in NAMES if SHAPES[each] == SHAPES.get(first)]
        return Tensor(source.choice([*NAMES, *NAMES[:4], *alike * 4]))
    rank = len(SHAPES.get(first, (1,)))
    choices: dict[str, list[Any]] = {
        "bool": [True, False],
        "float": [0.0, 0.5, 2.0],
        "number": [0, 1, 0.5, -1.0],
        "str": ["constant", "reflect", "mean", "bsw,bsw->bs", "bsw,btw->bst", "...w->...", "bsw,bsw", "none"],
    }
    integers: list[Any] = [*range(-rank, rank)] if "dim" in name else [0, 1, 2, 4, 8, -1, Samples()]
    return source.choice(choices.get(kind, integers if kind in ("int", "SymInt") else [None]))


def _list(kind: str, name: str, first: str, source: random.Random) -> list[Any]:
    shape = SHAPES.get(first, (1,))
    if name in ("size", "shape", "sizes") and source.random() < 0.9:
        return _view(shape, source)
    if name == "dims" and source.random() < 0.6:
        return source.sample(range(len(shape)), len(shape))
    if name == "normalized_shape":
        return list(shape[-source.randint(1, 2) :])
    return [_value(kind, name, first, source) for _ in range(source.choice([0, 1, 1, 2, 2, 4]))]


def _view(shape: tuple[int, ...], source: random.Random) -> list[Any]:
    """Sizes of a view: a dimension split, two joined (the batch and its neighbour, too), one left out."""
    sizes: list[Any] = [Samples(), *shape[1:]] if shape[0] == 2 else list(shape)
    if source.random() < 0.7:
        place = source.randrange(1, len(sizes)) if len(sizes) > 1 else 0
        if isinstance(sizes[place], int):
            inner = source.choice([each for each in (1, 2, 4) if sizes[place] % each == 0])
            sizes[place : place + 1] = [sizes[place] // inner, inner]
    if source.random() < 0.6 and len(sizes) > 1:
        place = source.randrange(len(sizes) - 1)
        left, right = sizes[place : place + 2]
        sizes[place : place + 2] = [Samples(right) if isinstance(left, Samples) else left * right]
    if source.random() < 0.4:
        sizes[source.randrange(len(sizes))] = -1
    return sizes
