"""Log of a finished fit in MLflow, by its client alone: no global state of MLflow's is set."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from typing import Any

from edgeprune.errors import EdgepruneError
from edgeprune.report.tracked_run import TrackedRun

EXPERIMENT = "edgeprune"  # where none is named
# MLflow tries seven times, longer and longer: minutes for an address with a typing error.
_RETRIES = ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
_SECRET = re.compile(r"(?<=://)[^/@]*@")  # user and password of an address


@dataclass(frozen=True)
class Logged:
    """Run of MLflow that was written: its identifier, and the experiment's name."""

    run: str
    experiment: str


def log_run(entry: TrackedRun, uri: str, experiment: str = EXPERIMENT) -> Logged:
    """Write an entry to the tracking store at `uri` as a new run; one that fails on its way is marked FAILED.

    uri: as MLflow takes it: `http://HOST:5000`, `sqlite:////PATH/mlflow.db`.
    Raises `ModuleNotFoundError` without MLflow, `EdgepruneError` with MLflow's own sentence for anything that
    it refuses or cannot reach.
    """
    os.environ.setdefault(*_RETRIES)
    from mlflow import MlflowClient

    try:
        client = MlflowClient(tracking_uri=uri)
        known = client.get_experiment_by_name(experiment)
        number = client.create_experiment(experiment) if known is None else known.experiment_id
        run = client.create_run(number, start_time=entry.began_ms, run_name=entry.name).info.run_id
        try:
            _write(client, run, entry)
        except BaseException:
            client.set_terminated(run, "FAILED")
            raise
        client.set_terminated(run, "FINISHED", end_time=entry.ended_ms)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # MlflowException, and what its stores let through
        said = " ".join(_hidden(str(error)).split())
        raise EdgepruneError(
            f"MLflow at {_hidden(uri)} did not take the run: {said}",
            "Give its address as MLflow takes it, such as http://HOST:5000 or sqlite:////PATH/mlflow.db.",
        ) from error
    return Logged(run, experiment)


def _write(client: Any, run: str, entry: TrackedRun) -> None:
    from mlflow.entities import Metric, Param, RunTag

    now = entry.ended_ms or round(1e3 * time.time())
    client.log_batch(
        run,
        [Metric(name, value, now, 0) for name, value in entry.metrics.items()],
        [Param(name, value) for name, value in entry.params.items()],
        [
            *(RunTag(name, value) for name, value in entry.tags.items()),
            RunTag("mlflow.note.content", entry.description),  # the description that MLflow shows
        ],
    )
    for file in entry.files:
        client.log_artifact(run, str(file))


def _hidden(text: str) -> str:
    """Text without the user and the password of an address in it."""
    return _SECRET.sub("***@", text)
