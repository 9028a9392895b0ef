"""Load on `cascade_service.py`: what the cascade of a fit saves, beside its largest tier alone.

    edgeprune fit examples/keywords.py --speedup 2,4 --out runs/keywords
    python examples/cascade_load.py runs/keywords

Both services get the same new words in turn, several times: words that no training, no threshold and no
evaluation has seen. CLIENTS connections each send the next one when the last one is answered: always busy.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

WORDS, ROUNDS, CLIENTS = 2000, 3, 4


@dataclass(frozen=True)
class Load:
    """Answers in the order of the queries, the milliseconds of each, and the seconds that all took."""

    answers: list[dict[str, Any]]
    ms: list[float]
    seconds: float


def load(url: str, queries: NDArray[np.float32]) -> Load:
    """Answers of a service to all queries, [n, ...]. Raises `ValueError` where it refuses one."""

    def client(first: int) -> list[tuple[dict[str, Any], float]]:
        found = []
        with closing(HTTPConnection(urlsplit(url).netloc)) as connection:
            for query in queries[first::CLIENTS]:
                began = perf_counter()
                connection.request("POST", "/", query.tobytes())
                response = connection.getresponse()
                answer = json.loads(response.read())
                found.append((answer, 1e3 * (perf_counter() - began)))
                if response.status != 200:
                    raise ValueError(f"{url} answers {response.status}: {answer}")
        return found

    began = perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        parts = list(pool.map(client, range(CLIENTS)))
    seconds = perf_counter() - began
    found = [parts[at % CLIENTS][at // CLIENTS] for at in range(len(queries))]
    return Load([answer for answer, _ in found], [ms for _, ms in found], seconds)


@contextmanager
def served(*arguments: str) -> Iterator[str]:
    """URL of a service in a process of its own."""
    line = [sys.executable, str(Path(__file__).with_name("cascade_service.py")), *arguments, "--port", "0"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None or not (url := process.stdout.readline().strip()):
                sys.exit("the service did not start")
            yield url
        finally:
            process.terminate()


def row(title: str, loads: list[Load], labels: NDArray[np.int64]) -> str:
    """Accuracy, median and 90th percentile in ms and requests a second, of all rounds."""
    right = np.mean([answer["class"] for answer in loads[0].answers] == labels)
    p50, p90 = np.percentile([ms for each in loads for ms in each.ms], [50, 90])
    rate = len(labels) * len(loads) / sum(each.seconds for each in loads)
    return f"{title:<14}{right:>10.4f}{p50:>10.3f}{p90:>10.3f}{rate:>12.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the cascade of a fit with its largest tier alone.")
    parser.add_argument("run", help="the run folder of examples/keywords.py with several budgets")
    run = parser.parse_args().run
    from keywords import log_mel, spoken

    waves, labels = spoken(WORDS, seed=2)
    queries = log_mel(waves).numpy()
    alone, cascade = [], []
    with served(run, "--alone") as large, served(run) as both:
        for url in (large, both):
            load(url, queries[:100])  # warms up
        for _ in range(ROUNDS):
            alone.append(load(large, queries))
            cascade.append(load(both, queries))
    print(f"{'':<14}{'accuracy':>10}{'p50 ms':>10}{'p90 ms':>10}{'requests/s':>12}")
    print(row(f"{alone[0].answers[0]['tier']} alone", alone, labels))
    print(row("the cascade", cascade, labels))
    shares = Counter(answer["tier"] for answer in cascade[0].answers)
    told = ", ".join(f"{tier} answers {count / WORDS:.0%}" for tier, count in shares.most_common())
    print(f"of the requests to the cascade {told}")


if __name__ == "__main__":
    main()
