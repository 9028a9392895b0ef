"""Bundle: one file that a device can run, check and trust.

model.onnx          the artefact, as it was measured; for OpenVINO model.xml with model.bin
manifest.json       what it is, what it may cost, what was measured, and the SHA-256 of every file
manifest.json.sig   optional: an OpenSSH signature over the manifest
golden.npz          real inputs ("in.NAME") and the outputs that the artefact served ("out.NAME")
run.py, ort.py      the runner: Python 3.8, numpy and the runtime, without edgeprune
evidence.json       the whole fit: baseline, trials, frontier
README.txt          how to run it by hand
"""

from __future__ import annotations

from edgeprune.bundle.golden import read_golden, write_golden
from edgeprune.bundle.read import Verified, open_bundle
from edgeprune.bundle.write import bundle_path, write_bundle

__all__ = ["Verified", "bundle_path", "open_bundle", "read_golden", "write_bundle", "write_golden"]
