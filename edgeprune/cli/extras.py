"""Extras of edgeprune: the line that installs a missing library."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgeprune.errors import MissingExtraError
from edgeprune.runtimes import TABLE as RUNTIMES

REPORT = "report"  # the extra that draws a run as an HTML page
TRACKING = "mlflow"  # the extra that logs a run in MLflow
HUB = "hf"  # the extra that reads pretrained folders of transformers

# Top-level module -> the extra in pyproject.toml, beside those that the runtimes' rows name.
_EXTRAS: Mapping[str, str] = MappingProxyType(
    {
        "torch": "fit",
        "torchao": "fit",
        "onnx": "fit",
        "onnx_ir": "fit",
        "onnxscript": "fit",
        "neural_compressor": "fit",
        "scipy": "fit",
        "transformers": HUB,
        "datasets": HUB,
        "tokenizers": HUB,
        "PIL": HUB,
        "sklearn": "examples",
        "safetensors": "examples",
        "jinja2": REPORT,
        "matplotlib": REPORT,
        "mlflow": TRACKING,
        "sqlalchemy": TRACKING,
        "alembic": TRACKING,
    }
)


def extras() -> Mapping[str, str]:
    """The extra that installs a module, by the module's top-level name."""
    return {**_EXTRAS, **{row.imports: row.extra for row in RUNTIMES.values()}}


def pip_line(module: str) -> str:
    """The line that installs a module of `extras()`."""
    return f"pip install 'edgeprune[{extras()[module]}]'"


def missing(error: ModuleNotFoundError) -> MissingExtraError | None:
    """Error for a failed import that names the extra to install; None when no extra provides the module."""
    module = (error.name or "").partition(".")[0]
    if module not in extras():
        return None
    return MissingExtraError(
        f"{module} is not installed, and this step needs it.", f"Run: {pip_line(module)}"
    )


__all__ = ["HUB", "REPORT", "extras", "missing", "pip_line"]
