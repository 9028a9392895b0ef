"""The cascade of a fit behind HTTP, as examples/ serves it and puts load on it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import edgeprune
from edgeprune.records.trial import FitResult
from edgeprune.search.cascade import confidence_of

EXAMPLES = Path(__file__).parents[2] / "examples"
pytest.importorskip("sklearn", reason="the tiers read scikit-learn's digits")


@pytest.fixture(scope="module")
def example() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        import cascade_load
        import cascade_service

        yield cascade_service, cascade_load


@pytest.fixture(scope="module")
def fitted(tiny: ModuleType, scripted: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    return edgeprune.fit(
        tiny.quick(evaluate_samples=tiny.scores),
        speedup=(1.15, 2.4),
        max_drop=0.05,
        epochs=1,
        device=scripted.ScriptedDevice(tiny.latency_ms),
        out=tmp_path_factory.mktemp("cascade") / "run",
    )


@pytest.fixture(scope="module")
def digits(tiny: ModuleType) -> tuple[Any, Any]:
    """(images [300, 1, 8, 8], labels [300]) of the test."""
    asked: list[Any] = []

    def always(digit: int) -> Any:
        return lambda images: asked.append(images) or np.eye(10)[[digit] * len(images)]

    right = [tiny.scores(always(digit)) for digit in range(10)]
    return asked[0], np.argmax(right, axis=0)


@pytest.fixture
def url(example: Any, fitted: FitResult) -> Iterator[str]:
    server = example[0].service(example[0].Cascade(Path(fitted.out)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_small_tier_answers_where_it_is_sure_and_the_large_one_the_rest(
    example: Any, fitted: FitResult, digits: tuple[Any, Any]
) -> None:
    service, _ = example
    assert fitted.cascade is not None
    large, small = fitted.tiers
    cascade = service.Cascade(Path(fitted.out))
    assert [tier.name for tier in cascade.tiers] == [small.name, large.name] == list(fitted.cascade.tiers)
    alone = service.Cascade(Path(fitted.out), alone=True)
    assert [tier.name for tier in alone.tiers] == [large.name]
    for image in digits[0][:60]:
        answer = cascade.answer(image.tobytes())
        logits = cascade.tiers[0].session.run(None, {cascade.name: image[None]})[0]
        sure = confidence_of(logits)[0] >= (fitted.cascade.thresholds[0] or np.inf)
        assert answer["tier"] == (small.name if sure else large.name)
        if sure:
            assert (answer["class"], answer["confidence"]) == (logits.argmax(), confidence_of(logits)[0])
        else:
            assert answer == alone.answer(image.tobytes())


def test_a_load_gets_the_answers_in_the_order_of_its_queries(
    example: Any, fitted: FitResult, digits: tuple[Any, Any], url: str
) -> None:
    service, client = example
    images, labels = digits
    images, labels = images[:101], labels[:101]
    found = client.load(url, images)
    cascade = service.Cascade(Path(fitted.out))
    assert found.answers == [cascade.answer(image.tobytes()) for image in images]
    assert len(found.ms) == 101
    assert all(ms > 0 for ms in found.ms)
    told = client.row("the cascade", [found], labels).split()
    right = np.mean([answer["class"] for answer in found.answers] == labels)
    assert told[:3] == ["the", "cascade", f"{right:.4f}"]
    assert right > 0.8


def test_a_query_of_another_size_or_without_a_number_is_refused_in_words(example: Any, url: str) -> None:
    _, client = example
    for query in (b"1234", np.full((1, 1, 8, 8), np.nan, np.float32).tobytes()):
        with closing(HTTPConnection(url.removeprefix("http://"))) as connection:
            connection.request("POST", "/", query)
            response = connection.getresponse()
            assert response.status == 400
            assert b"a query is 256 bytes: finite float32 (1, 1, 8, 8)" in response.read()
    with pytest.raises(ValueError, match="answers 400"):
        client.load(url, np.zeros((4, 3), np.float32))


def test_a_run_of_one_budget_has_nothing_to_serve(example: Any, make_run: Any) -> None:
    run = make_run()
    with pytest.raises(ValueError, match="has no cascade: it has one budget"):
        example[0].Cascade(Path(run.result.out))
