"""A function's digest follows what it computes, not its name or where it stands."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from edgeprune.pruning.identity import digest


def scaled(by: Any) -> Callable[[float], Any]:
    return lambda x: x * by


def helped(x: float) -> float:
    return helper(x) + 1


def helper(x: float) -> float:
    return x + OFFSET


OFFSET = 2


class Power:
    def __init__(self, of: int) -> None:
        self.of = of

    def __call__(self, x: float) -> float:
        return x**self.of


def recursive(x: int) -> int:
    return recursive(x - 1) if x else 0


def test_the_same_code_under_another_name_has_the_same_digest() -> None:
    def one(x: float) -> float:
        return x + 1

    def other(x: float) -> float:
        return x + 1  # a comment

    assert digest(one) == digest(other)


PAIRS: dict[str, tuple[Any, Any]] = {
    "a constant": (lambda x: x + 1, lambda x: x + 2),
    "an operation": (lambda x: x + 1, lambda x: x * 1),
    "a name that it calls": (lambda x: x.min(), lambda x: x.max()),
    "a default": (lambda x, by=1: x * by, lambda x, by=2: x * by),
    "an enclosed number": (scaled(2), scaled(3)),
    "an enclosed array": (scaled(np.arange(3)), scaled(np.arange(4))),
    "an enclosed tensor": (scaled(torch.zeros(2)), scaled(torch.ones(2))),
    "an enclosed function": (scaled(abs), scaled(helped)),
    "an enclosed function of numpy's": (scaled(np.abs), scaled(np.sqrt)),
    "an argument that is bound": (partial(pow, 2), partial(pow, 3)),
    "an attribute of an object": (Power(2), Power(3)),
    "a function inside": (lambda x: [y + 1 for y in x], lambda x: [y + 2 for y in x]),
}


@pytest.mark.parametrize("name", PAIRS)
def test_another_digest_for(name: str) -> None:
    one, other = PAIRS[name]
    assert digest(one) != digest(other)
    assert digest(one) == digest(one)


def test_helpers_and_constants_of_the_module_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(helped)
    monkeypatch.setattr(sys.modules[__name__], "OFFSET", 3)
    assert digest(helped) != before


def test_a_function_that_calls_itself_has_a_digest() -> None:
    assert len(digest(recursive)) == 16


def test_another_process_has_the_same_digest() -> None:
    script = """
from functools import partial
from edgeprune.pruning.identity import digest
def f(x, some=frozenset({"a", "b", "c"})):
    return {y: x for y in some} if x in {"d", "e", "f"} else object()
print(digest((f, partial(f, 2))))
"""
    said = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
