"""Identity of a function: a digest of its code and of what its code is bound to, equal in every process.

A run that was scored by a user's own function is resumed with the same function only. Names, comments and
the place in a file do not count; constants, default arguments, enclosed values, and the functions and
constants of the same module that it names do. Bytecode differs between Python's minor versions.
"""

from __future__ import annotations

import hashlib
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np

_PLAIN = (type(None), type(...), bool, int, float, complex, str, bytes)


def digest(value: object) -> str:
    """16 hexadecimal digits of a SHA-256 over a function, or over a tuple with functions in it."""
    return hashlib.sha256(repr(_parts(value, ())).encode()).hexdigest()[:16]


def _parts(value: Any, above: tuple[int, ...]) -> object:
    """The value as nested tuples of plain values. above: ids of the objects that it lies in."""
    if isinstance(value, _PLAIN):
        return value
    if id(value) in above:
        return "itself"
    inside = (*above, id(value))
    if isinstance(value, FunctionType):
        return _function(value, inside)
    if isinstance(value, CodeType):
        constants = tuple(_parts(constant, inside) for constant in value.co_consts)
        return "code", value.co_code, value.co_names, constants
    if isinstance(value, MethodType):
        return "method", _parts(value.__func__, inside), _parts(value.__self__, inside)
    if isinstance(value, partial):
        return "partial", *(_parts(part, inside) for part in (value.func, value.args, value.keywords))
    if isinstance(value, list | tuple):
        return type(value).__name__, *(_parts(each, inside) for each in value)
    if isinstance(value, set | frozenset):
        return "set", *sorted(repr(_parts(each, inside)) for each in value)
    if isinstance(value, dict):
        return "dict", *((_parts(key, inside), _parts(each, inside)) for key, each in value.items())
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return "array", value.dtype.str, value.shape, value.tobytes()
    call = getattr(type(value), "__call__", None)  # noqa: B004 (its code, not whether it has one)
    if isinstance(call, FunctionType):
        attributes = getattr(value, "__dict__", {})
        return "object", type(value).__qualname__, _parts(call, inside), _parts(attributes, inside)
    return "named", getattr(value, "__module__", None), getattr(value, "__name__", type(value).__qualname__)


def _function(function: FunctionType, inside: tuple[int, ...]) -> object:
    code, module = function.__code__, function.__globals__
    named = {name: module[name] for name in sorted(_names(code)) if name in module}
    bound = (
        function.__defaults__,
        function.__kwdefaults__,
        tuple(cell.cell_contents for cell in function.__closure__ or ()),
        {
            name: each
            for name, each in named.items()
            if isinstance(each, _PLAIN)
            or (isinstance(each, FunctionType) and each.__module__ == function.__module__)
        },
    )
    return "function", _parts(code, inside), *(_parts(part, inside) for part in bound)


def _names(code: CodeType) -> set[str]:
    """Names that a code object looks up, those of functions inside it too."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return {*code.co_names, *(name for each in inner for name in _names(each))}
