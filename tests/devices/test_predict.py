"""Predictions of a session: inputs in order or by name, outputs as the model has them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgeprune.devices import Load
from edgeprune.devices.predict import predictor
from edgeprune.errors import InputError


def test_a_predictor_takes_arrays_in_order_or_by_name(
    scripted: ModuleType, small_onnx: ModuleType, tmp_path: Path
) -> None:
    path = small_onnx.difference(tmp_path / "m.onnx")
    left, right = np.full((1, 3), 5, np.float32), np.full((1, 3), 2, np.float32)
    with scripted.ScriptedDevice().start(Load("onnxruntime", path, 1)) as session:
        predict = predictor(session)
        np.testing.assert_array_equal(predict(left, right), left - right)
        np.testing.assert_array_equal(predict({"right": right, "left": left}), left - right)
        with pytest.raises(InputError, match="got 1 arrays; the model has 2 inputs: left, right"):
            predict(left)
        with pytest.raises(InputError, match="got left, wrong; the model's inputs are left, right"):
            predict({"left": left, "wrong": right})


def test_a_predictor_returns_several_outputs_as_a_tuple(
    scripted: ModuleType, small_onnx: ModuleType, tmp_path: Path
) -> None:
    path = small_onnx.linear(tmp_path / "m.onnx")
    x = np.ones((2, 8), np.float32)
    with scripted.ScriptedDevice().start(Load("onnxruntime", path, 1)) as session:
        outputs = predictor(session)(x)
    assert isinstance(outputs, tuple)
    for got, want in zip(outputs, small_onnx.linear_in_numpy(x), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_model_of_one_row_is_asked_one_row_at_a_time(
    scripted: ModuleType, small_onnx: ModuleType, tmp_path: Path
) -> None:
    path = small_onnx.difference(tmp_path / "m.onnx")
    left, right = np.random.default_rng(0).random((2, 5, 3), np.float32)
    asked: list[int] = []
    with scripted.ScriptedDevice().start(Load("onnxruntime", path, 1)) as session:
        inner = session.predict

        def counted(feeds: dict[str, np.ndarray]) -> object:
            asked.extend({len(array) for array in feeds.values()})
            return inner(feeds)

        session.predict = counted
        np.testing.assert_array_equal(predictor(session, one_row=True)(left, right), left - right)
        assert asked == [1] * 5
        np.testing.assert_array_equal(
            predictor(session, one_row=True)(left[:1], right[:1]), (left - right)[:1]
        )
