"""Translation of ONNX files to torch: a file is checked, folded, and written in torch's operations."""

from __future__ import annotations

from edgeprune.translate.agreed import agreed
from edgeprune.translate.checked_file import read_onnx
from edgeprune.translate.kept import output_key
from edgeprune.translate.network import Network, NotTranslated
from edgeprune.translate.weights import translated

__all__ = ["Network", "NotTranslated", "agreed", "output_key", "read_onnx", "translated"]
