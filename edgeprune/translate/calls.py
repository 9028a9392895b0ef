"""Table of operators: each is one function of torch, and says which inputs it takes as plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


class Untranslated(Exception):
    """An operator, or a use of one, that has no translation. Its text is the reason, as a clause."""


@dataclass(frozen=True)
class Call:
    """One use of an operator in a file.

    attributes: by name, texts as str. opset: version of the operator's domain. outputs: how many values are
    asked for, up to the last one that has a name.
    """

    op_type: str
    attributes: Mapping[str, Any]
    opset: int
    outputs: int = 1

    def get(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    def axes(self, given: Any, name: str = "axes") -> list[int] | None:
        """Axes of an attribute, as older opsets have them, or of an input; None where nobody says any."""
        axes = self.attributes.get(name, given)
        return None if axes is None else [int(axis) for axis in axes]

    def only(self, **allowed: Any) -> None:
        """Raise `Untranslated` for an attribute with a value other than the allowed ones."""
        for name, values in allowed.items():
            value = self.attributes.get(name)
            if value is not None and value not in values:
                raise Untranslated(f"its {name} is {value!r}")


@dataclass(frozen=True)
class OnnxOperator:
    """One row of `TABLE`.

    function: (call, *inputs) -> the value, or a tuple of values; inputs are tensors, lists of numbers, or
    None where one is left out. plain: places of the inputs that are taken as lists of numbers, which must be
    constants of the file or sizes. known: places whose constants come as arrays of NumPy.
    """

    function: Callable[..., Any]
    plain: frozenset[int] = frozenset()
    known: frozenset[int] = frozenset()


TABLE: dict[str, OnnxOperator] = {}


def operator(
    *names: str, plain: tuple[int, ...] = (), known: tuple[int, ...] = ()
) -> Callable[[Function], Function]:
    """Put a function into `TABLE` as the translation of operators of these names."""

    def register(function: Function) -> Function:
        TABLE.update(dict.fromkeys(names, OnnxOperator(function, frozenset(plain), frozenset(known))))
        return function

    return register
