"""Telemetry of the libraries below, switched off before any of them is imported: nothing leaves the
machine."""

from __future__ import annotations

import os
import sys

# ONNX Runtime from 1.29 on looks up a host from its Linux wheels, and keeps model names, paths and errors in
# the user's cache. huggingface_hub, below transformers, asks for the next two. MLflow reads the last one, and
# takes DO_NOT_TRACK for unset unless it is "true".
OFF = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY")
# OpenVINO numbers the user in a file of the home folder and has no switch; without this package it does not.
PACKAGES = ("openvino_telemetry",)


def switch_off() -> None:
    """Set OFF where the user has not set it, keep PACKAGES from being imported, and tell an early ONNX
    Runtime."""
    for name in OFF:
        os.environ.setdefault(name, "1")
    for name in PACKAGES:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None: it cannot be imported
    early = sys.modules.get("onnxruntime")
    if early is not None and hasattr(early, "disable_telemetry_events"):
        early.disable_telemetry_events()
