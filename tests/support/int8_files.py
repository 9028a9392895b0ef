"""The steps of `edgeprune.quantize` from file to file, for tests that serve what they make."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from edgeprune.quantize import dynamic, emit, weight_only
from edgeprune.quantize.emit import Quantised


@dataclass(frozen=True)
class Written(Quantised):
    """A quantised model and its file."""

    path: Path = field(kw_only=True)


def written(found: Quantised, path: Path) -> Written:
    onnx.save(found.model, path)
    return Written(**vars(found), path=path)


def quantise(exported: Path, ranges: Any, dialect: Any, path: Path, **options: Any) -> Written:
    return written(emit.quantise(onnx.load(exported), ranges, dialect, **options), path)


def quantise_dynamic(exported: Path, path: Path, **options: Any) -> Written:
    return written(dynamic.quantise_dynamic(onnx.load(exported), **options), path)


def compress_weights(exported: Path, path: Path, form: Any, **options: Any) -> Written:
    return written(weight_only.compress_weights(onnx.load(exported), form, **options), path)
