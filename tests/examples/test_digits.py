from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgeprune import Task
from edgeprune.tasks import call_evaluate, check_task, load_task

EXAMPLES = Path(__file__).parents[2] / "examples"
pytest.importorskip("sklearn", reason="the example reads scikit-learn's digits")


@pytest.fixture(scope="module")
def digits() -> Task:
    return load_task(str(EXAMPLES / "digits.py"))


def images_of(batches) -> set[bytes]:
    return {image.numpy().tobytes() for batch in batches for image in batch}


def test_the_shipped_weights_read_more_than_98_of_100_digits(digits: Task):
    def predict(images):
        with torch.no_grad():
            return digits.model(torch.from_numpy(images)).numpy()

    assert digits.metric == "top-1"
    assert call_evaluate(digits, predict) > 0.98


def test_the_weights_stay_under_a_megabyte():
    assert (EXAMPLES / "digits.safetensors").stat().st_size < 1_000_000


def test_no_test_image_calibrates_or_trains(digits: Task):
    tested: list[torch.Tensor] = []

    def predict(images):
        tested.append(torch.from_numpy(images))
        return torch.zeros(len(images), 10).numpy()

    call_evaluate(digits, predict)
    test, train = images_of(tested), images_of(images for images, _ in digits.train or ())
    calibration = images_of(digits.calibration)
    assert (len(test), len(train), len(calibration)) == (600, 1197, 256)
    assert not test & train
    assert calibration < train


def test_every_pass_over_the_training_data_is_the_same(digits: Task):
    first, second = ([labels.tolist() for _, labels in digits.train or ()] for _ in range(2))
    assert first == second
    assert first[0] != sorted(first[0])


def test_the_task_is_complete(digits: Task):
    check_task(digits)
