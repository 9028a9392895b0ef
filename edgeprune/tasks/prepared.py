"""Tasks that a form of MODEL made, with what there is to tell of them and what their bundle carries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from edgeprune.records.task import Task

# (runtime, name of the artefact, threads) -> content of files by their names in the bundle
Carry = Callable[[str, str, int], Mapping[str, bytes]]


def nothing(runtime: str, artefact: str, threads: int) -> Mapping[str, bytes]:
    """Nothing to carry."""
    return {}


def no_doubt(score: float) -> Iterable[str]:
    """No question about a metric."""
    return ()


@dataclass(frozen=True, repr=False)
class PreparedTask(Task):
    """Task of a MODEL without Python of the user.

    remarks: sentences about how it was read, for the answer. doubts: questions that the dense model's metric
    raises. carry: files that go into the bundle, such as a tokenizer.
    """

    remarks: tuple[str, ...] = ()
    doubts: Callable[[float], Iterable[str]] = no_doubt
    carry: Carry = nothing
