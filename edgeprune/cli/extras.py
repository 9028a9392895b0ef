"""Which extra of edgeprune installs what: the line that repairs a missing library."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgeprune.errors import MissingExtraError

# Top-level module -> the extra in pyproject.toml.
EXTRAS: Mapping[str, str] = MappingProxyType(
    {
        "torch": "fit",
        "torchao": "fit",
        "onnx": "fit",
        "onnx_ir": "fit",
        "onnxscript": "fit",
        "neural_compressor": "fit",
        "scipy": "fit",
        "onnxruntime": "ort",
        "openvino": "openvino",
        "tensorrt": "tensorrt",
        "tensorrt_rtx_bindings": "rtx",
        "sklearn": "examples",
        "safetensors": "examples",
    }
)


def pip_line(module: str) -> str:
    """The line that installs a module of `EXTRAS`."""
    return f"pip install 'edgeprune[{EXTRAS[module]}]'"


def missing(error: ModuleNotFoundError) -> MissingExtraError | None:
    """What to tell the user about a failed import; None when no extra provides that module."""
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        return None
    return MissingExtraError(
        f"{module} is not installed, and this step needs it.", f"Run: {pip_line(module)}"
    )


__all__ = ["EXTRAS", "missing", "pip_line"]
