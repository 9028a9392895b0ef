"""A run is written to MLflow's own store, and read back by MLflow's own client."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
pytest.importorskip("sqlalchemy", reason="the extra mlflow is not installed")

from edgeprune.errors import EdgepruneError
from edgeprune.report.mlflow_log import log_run
from edgeprune.report.tracked_run import TrackedRun, tracked_run
from tests.support import html_runs

# MLflow's tables use what SQLAlchemy deprecates, and its pools close connections when they are collected.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def entry(make_run: Callable[..., Any]) -> TrackedRun:
    made = make_run()
    return tracked_run(html_runs.whole(made.result), made.folder)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of an empty store; files go into a folder beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def read(store: str, run: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=store).get_run(run)


def test_a_store_has_all_that_was_logged(entry: TrackedRun, store: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store)
    first = log_run(entry, store)
    second = log_run(entry, store)  # into the experiment that is there now
    found = read(store, first.run)
    assert first.run != second.run
    assert client.get_experiment(found.info.experiment_id).name == first.experiment == "edgeprune"
    assert read(store, second.run).info.experiment_id == found.info.experiment_id
    assert found.data.params == entry.params
    assert found.data.metrics == pytest.approx(entry.metrics)
    assert entry.tags.items() <= found.data.tags.items()
    assert found.data.tags["mlflow.note.content"] == entry.description
    assert (found.info.run_name, found.info.status) == ("tiny", "FINISHED")
    assert (found.info.start_time, found.info.end_time) == (entry.began_ms, entry.ended_ms)
    assert [each.path for each in client.list_artifacts(first.run)] == ["result.json"]
    place = client.download_artifacts(first.run, "result.json")
    assert Path(place).read_bytes() == entry.files[0].read_bytes()


def test_nothing_of_mlflows_own_state_is_set(entry: TrackedRun, store: str) -> None:
    import mlflow

    before = mlflow.get_tracking_uri()
    log_run(entry, store, experiment="others")
    assert (mlflow.get_tracking_uri(), mlflow.active_run()) == (before, None)


def test_a_run_that_fails_on_its_way_is_marked(entry: TrackedRun, store: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    broken = replace(entry, files=(tmp_path / "absent.json",))
    with pytest.raises(EdgepruneError, match=r"did not take the run: .*absent\.json"):
        log_run(broken, store)
    client = MlflowClient(tracking_uri=store)
    known = client.get_experiment_by_name("edgeprune")
    assert known is not None
    assert [run.info.status for run in client.search_runs([known.experiment_id])] == ["FAILED"]


@pytest.mark.parametrize(
    ("address", "told"),
    [
        pytest.param("carrier-pigeon://loft", "carrier-pigeon://loft", id="scheme"),
        pytest.param("http://me:secret@127.0.0.1:9", "http://***@127.0.0.1:9", id="nobody there"),
    ],
)
def test_an_address_that_takes_nothing_is_a_sentence_without_its_password(
    address: str, told: str, entry: TrackedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(EdgepruneError) as caught:
        log_run(entry, address)
    assert caught.value.what.startswith(f"MLflow at {told} did not take the run: ")
    assert "secret" not in str(caught.value)
    assert caught.value.exit_code == 1
