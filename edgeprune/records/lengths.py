"""Lengths of sequences that a model is served at, and the dimensions of its inputs that have them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from edgeprune.errors import InputError

if TYPE_CHECKING:
    import torch

LENGTH_NAME = "length"  # of the dimensions that vary with the length, in exports and files
LEAST_LENGTH = 2  # torch.export takes a size of 1 for a number
MOST_LENGTH = 1 << 24
# Dimension of every input, or dimensions by input: its name, or its place in a tuple.
LengthDims: TypeAlias = int | Mapping[str, int | Sequence[int]] | Mapping[int, int | Sequence[int]]
_DIMS_HINT = (
    "Say which dimension has that length: length_dims=1 where it is dimension 1 of every input, else a dict "
    "by input, such as {'input_ids': 1, 'attention_mask': 1}. Nothing is guessed from an example."
)


@dataclass(frozen=True)
class Lengths:
    """Stated lengths of sequences.

    values: positions (tokens, samples, frames), ascending. dims: of each input, in the example's order, the
    dimensions that have the length; all inputs of a query have the same one.
    """

    values: tuple[int, ...]
    dims: tuple[tuple[int, ...], ...]

    @property
    def longest(self) -> int:
        return self.values[-1]

    def between(self) -> Iterator[int]:
        """All lengths from the longest to the shortest, the primes first."""
        downwards = range(self.longest, self.values[0] - 1, -1)
        yield from filter(_is_prime, downwards)
        yield from (length for length in downwards if not _is_prime(length))

    @property
    def told(self) -> str:
        """The lengths for a sentence: `32, 64 and 128`."""
        *others, last = map(str, self.values)
        return f"{', '.join(others)} and {last}" if others else last

    def of(self, shapes: Sequence[Sequence[int]]) -> int | None:
        """Length of a query with inputs of these shapes; None where they have not one that is stated."""
        found = {shape[dim] for shape, dims in zip(shapes, self.dims, strict=True) for dim in dims}
        return found.pop() if len(found) == 1 and found <= set(self.values) else None

    def fixed(self, place: int, shape: Sequence[int]) -> tuple[int | None, ...]:
        """Sizes of an input that no query changes; None for the batch and for the length."""
        free = {0, *self.dims[place]}
        return tuple(None if dim in free else size for dim, size in enumerate(shape))

    def first(self, tensors: Sequence[torch.Tensor], length: int) -> tuple[torch.Tensor, ...]:
        """The first `length` positions of inputs that are as long or longer."""
        found = []
        for tensor, dims in zip(tensors, self.dims, strict=True):
            for dim in dims:
                tensor = tensor.narrow(dim, 0, length)
            found.append(tensor.contiguous() if dims else tensor)
        return tuple(found)


def _is_prime(number: int) -> bool:
    return all(number % each for each in range(2, int(number**0.5) + 1))


def stated_lengths(values: Any, dims: Any, example: Mapping[str | int, Sequence[int]]) -> Lengths | None:
    """Lengths as `Task.lengths` and `Task.length_dims` state them; None where neither is given.

    example: shape of each input by its name, or by its place in a tuple.
    Raises `InputError` for lengths without dimensions, for what are no lengths or no dimensions, and for an
    example that is not of the longest length.
    """
    if values is None and dims is None:
        return None
    if values is None:
        raise InputError("length_dims was given without lengths.", "Say them: lengths=(32, 128).")
    lengths = _checked(values)
    if dims is None:
        raise InputError(f"The lengths {', '.join(map(str, lengths))} are of no dimension.", _DIMS_HINT)
    found = Lengths(lengths, _dims_of(dims, example))
    for (name, shape), those in zip(example.items(), found.dims, strict=True):
        for dim in those:
            if shape[dim] != found.longest:
                raise InputError(
                    f"The example's input {name!r} has {shape[dim]} positions in dimension {dim}, and the "
                    f"longest of the lengths {found.told} is {found.longest}.",
                    "Give an example of the longest length; the first positions of it stand for the others.",
                )
    return found


def _checked(values: Any) -> tuple[int, ...]:
    whole = isinstance(values, Sequence) and not isinstance(values, str)
    if not whole or not values or not all(isinstance(each, int) for each in values):
        raise InputError(f"lengths is {values!r:.60}.", "Give whole numbers, such as (32, 128).")
    if min(values) < LEAST_LENGTH or max(values) > MOST_LENGTH or len(set(values)) < len(values):
        raise InputError(
            f"lengths is {values!r:.60}.",
            f"Give different whole numbers from {LEAST_LENGTH} to {MOST_LENGTH}.",
        )
    if len(values) < 2:
        raise InputError(
            f"lengths is {values!r:.60}, one alone.",
            "Leave it out: the example has that length, and so has all.",
        )
    return tuple(sorted(values))


def _dims_of(dims: Any, example: Mapping[str | int, Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    if isinstance(dims, int):
        dims = dict.fromkeys(example, dims)
    if not isinstance(dims, Mapping) or not dims:
        raise InputError(f"length_dims is {dims!r:.60}.", _DIMS_HINT)
    for name in dims:
        if name not in example:
            raise InputError(
                f"length_dims names the input {name!r}, and the example has {', '.join(map(repr, example))}.",
                _DIMS_HINT,
            )
    found = []
    for name, shape in example.items():
        said = dims.get(name, ())
        those = (said,) if isinstance(said, int) else tuple(said)
        for dim in those:
            if not isinstance(dim, int) or not 1 <= dim < len(shape):
                raise InputError(
                    f"length_dims says dimension {dim!r} of input {name!r}, whose shape is {list(shape)}.",
                    "Give dimensions behind the batch, which is dimension 0, counted from the front.",
                )
        found.append(tuple(dict.fromkeys(those)))
    return tuple(found)
