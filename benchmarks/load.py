"""`python -m benchmarks.load [--fits N] [--seed N]`: verdicts of simulated fits beside simulated load.

Each fit has a model in two forms, a budget, and a machine whose CPUs do other things, too: processes that
come in bursts and take slices of 3 to 4 ms, a hypervisor that steals, spells in which everything is slower,
and all of these. What a kernel counts of them, the simulated device tells as a real one does; of slow spells
nobody tells. Sessions, search, proofs and answers are edgeprune's own; latencies, clock and artefacts are
made up.

A false miss is a `misses` for a model one of whose forms a quiet machine proves to fit with some percent to
spare; a false fit is a `fits` for a form whose own percentile is above the budget. A fit that cut deeper
chose the faster form though a quiet machine proves that the other fits, too.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace, TracebackType
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from edgeprune.devices import Feeds, Load, Machine, Memory
from edgeprune.errors import DeviceBusy
from edgeprune.fitting import loop
from edgeprune.fitting.trials.runner import Trials
from edgeprune.fitting.trials.sessions import DENSE, DeviceSide
from edgeprune.fitting.trials.verdict import TrialRecord
from edgeprune.records.cpu_time import TimedBlock, Waiting
from edgeprune.records.direction import Direction
from edgeprune.records.machine import Budget
from edgeprune.records.trial import DENSE_INT8, Candidate
from edgeprune.recover.recipe import TrainingOptions

PERCENTILE = 90
SIGMA = 0.04  # of a query's own time
SLICE_MS = (3.0, 4.0)  # that another process, or a hypervisor, has a CPU for
TICK_S = 0.01  # in which a hypervisor's part is counted
SPARE = 0.02  # between a budget and what a form takes, in either direction: nearer is chance
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Weather:
    """What else a machine does: seconds of each state, drawn as it goes; 0 is never.

    bursts, steal: (busy, idle) means; slow: (shortest, longest, idle mean, factor).
    """

    name: str
    bursts: tuple[float, float] = (0.0, 1.0)
    steal: tuple[float, float] = (0.0, 1.0)
    slow: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)


WEATHERS = (
    Weather("quiet"),
    Weather("short bursts", bursts=(0.05, 0.2)),
    Weather("bursts of seconds", bursts=(3.0, 5.0)),
    Weather("a process that never ends", bursts=(1e9, 1e-9)),
    Weather("steal", steal=(2.0, 4.0)),
    Weather("slow spells", slow=(3.0, 15.0, 20.0, 1.4)),
    Weather("all of these", bursts=(1.0, 4.0), steal=(0.5, 6.0), slow=(3.0, 10.0, 30.0, 1.3)),
)


class Spells:
    """Times at which something begins and ends, drawn as far as they are asked for."""

    def __init__(self, rng: np.random.Generator, busy: Any, idle: float) -> None:
        self._rng, self._busy, self._idle = rng, busy, idle
        self._ends: list[float] = [
            float(rng.exponential(idle)) * float(rng.random())
        ]  # idle, busy, idle, ...

    def on(self, at: Array) -> NDArray[np.bool_]:
        while self._ends[-1] <= at[-1]:
            idle = len(self._ends) % 2 == 0
            self._ends.append(self._ends[-1] + (self._rng.exponential(self._idle) if idle else self._busy()))
        return np.searchsorted(self._ends, at, side="right") % 2 == 1


class Simulated:
    """A `devices.Device` with a clock of its own, which only timed queries move.

    own_ms: milliseconds of a query by the name of the trial.
    """

    name = "simulated"

    def __init__(self, weather: Weather, own_ms: dict[str, float], rng: np.random.Generator) -> None:
        self.own_ms, self.rng, self.now = own_ms, rng, 0.0
        shortest, longest, idle, self.factor = weather.slow

        def spells(busy: float, idle: float) -> Spells | None:
            return Spells(rng, lambda: rng.exponential(busy), idle) if busy else None

        self.bursts, self.stolen = spells(*weather.bursts), spells(*weather.steal)
        self.slow = Spells(rng, lambda: rng.uniform(shortest, longest), idle) if longest else None

    def machine(self) -> Machine:
        return Machine("x86_64", "simulated", 1, 1024.0, (), "", "3.11", (("onnxruntime", "0"),))

    def start(self, load: Load, *, sensors: Sequence[str] = ()) -> SimulatedSession:
        return SimulatedSession(self, self.own_ms[load.artefact.parent.name])


@dataclass
class SimulatedSession:
    """A `devices.Session`; between two queries no time passes."""

    device: Simulated
    own_ms: float
    runtime_version: str = "onnxruntime 0"
    input_names: tuple[str, ...] = ("x",)
    output_names: tuple[str, ...] = ("y",)

    def time(self, feeds: Feeds, *, runs: int, seconds: float) -> TimedBlock:
        rng, device = self.device.rng, self.device
        count = max(runs, int(np.ceil(1e3 * seconds / self.own_ms)))
        ms = self.own_ms * np.exp(SIGMA * rng.standard_normal(count))
        begins = device.now + np.concatenate(([0.0], np.cumsum(ms[:-1]))) / 1e3
        if device.slow is not None:
            ms = np.where(device.slow.on(begins), device.factor, 1.0) * ms
        waits = self._taken(device.bursts, ms)
        stolen = self._taken(device.stolen, ms)
        whole = ms + waits + stolen
        enough = max(runs, int(np.searchsorted(np.cumsum(whole), 1e3 * seconds)) + 1)
        whole, waits, stolen, ms = (each[:enough] for each in (whole, waits, stolen, ms))
        lasted = float(whole.sum()) / 1e3
        device.now += lasted
        ticks = int(stolen.sum() / 1e3 / TICK_S + rng.random()) * TICK_S
        ran_s, waited_s = float(ms.sum()) / 1e3, float(waits.sum()) / 1e3
        waiting = Waiting(lasted, 1, 1, ran_s, waited_s, lasted - ticks, ticks)
        return TimedBlock(tuple(whole.tolist()), waiting, tuple((waits / whole).tolist()))

    def _taken(self, spells: Spells | None, ms: Array) -> Array:
        """Milliseconds, query by query, that others had the CPU for: slice by slice, in turn with them."""
        if spells is None:
            return np.zeros(len(ms))
        rng, ends = self.device.rng, np.cumsum(ms)
        turns = np.cumsum(rng.uniform(*SLICE_MS, int(ends[-1] / SLICE_MS[0]) + 2)) - rng.uniform(
            0, SLICE_MS[1]
        )
        turns = turns[turns > 0]
        slices = rng.uniform(*SLICE_MS, len(turns))
        # A turn is taken where the other process is there then; its slices move what comes after them.
        at = self.device.now + (turns + np.concatenate(([0.0], np.cumsum(slices[:-1])))) / 1e3
        slices = np.where(spells.on(at), slices, 0.0) if len(turns) else slices
        before = np.concatenate(([0.0], np.cumsum(slices)))
        passed = before[np.searchsorted(turns, ends, side="left")]
        return np.diff(passed, prepend=0.0)

    def warm_up(self, feeds: Feeds, min_seconds: float) -> int:
        self.device.now += min_seconds
        return 1

    def memory(self) -> Memory:
        return Memory(10.0, 5.0)

    def state(self) -> dict[str, str]:
        return {}

    def __enter__(self) -> SimulatedSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Books:
    """A ledger of one run, in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._found: dict[str, Any] = {}

    def once(self, key: str, work: Any, cls: type, **options: Any) -> Any:
        if key not in self._found:
            self._found[key] = work()
        return self._found[key]


class Side(DeviceSide):
    def load(self, name: str) -> Load:
        return Load("onnxruntime", self.folder / name / "model.onnx", 1)

    def rows(self, count: int, length: int | None = None) -> dict[str, NDArray[Any]]:
        return {"x": np.zeros((count, 1), np.float32)}


class Forms(Trials):
    """Trials of the two forms, whose metric is held and whose artefacts lie in the run folder."""

    def __init__(self, order: Any, workshop: Any, ledger: Any) -> None:
        super().__init__(order, workshop, ledger)
        self.device_side = Side(order, workshop, ledger.folder)

    def _test(self, name: str, candidate: Candidate, kind: Any, start: str | None) -> TrialRecord:
        references = self._references
        usual_ms = float(np.median(references)) if references else None
        measured = self.device_side.measure(name, lambda progress: None, usual_ms)
        return TrialRecord(candidate, 1.0, measured, (), (), (), 0.0, kind)


@dataclass(frozen=True)
class Verdict:
    """Verdict of a simulated fit, and what is true of the two forms: whether each is within the budget."""

    weather: str
    kind: str  # or "busy": the dense model could not be measured
    chosen: str
    within: dict[str, bool]
    seconds: float = field(compare=False, default=0.0)  # of the simulated machine

    @property
    def false_miss(self) -> bool:
        return self.kind == "misses" and any(self.within.values())

    @property
    def false_fit(self) -> bool:
        return self.kind == "fits" and not self.within[self.chosen]

    @property
    def deeper(self) -> bool:
        return self.kind == "fits" and self.chosen != DENSE and self.within[DENSE]


def _stubs(device: Simulated, latency_ms: float) -> tuple[Any, Any]:
    budget = Budget(latency_ms=latency_ms, percentile=PERCENTILE)
    order = SimpleNamespace(
        name="simulated",
        sources=(),
        budget=budget,
        device=device,
        forecast=None,
        profile=SimpleNamespace(batch=1, threads=1, name="simulated"),
        target=SimpleNamespace(sensors=(), throttle=()),
        options=SimpleNamespace(listen=lambda event: None, training=TrainingOptions(epochs=0)),
        runtime="onnxruntime",
    )
    workshop = SimpleNamespace(
        task=SimpleNamespace(
            metric="top-1", evaluate_samples=None, evaluate_subset=None, direction=Direction()
        ),
        coupling=SimpleNamespace(groups=()),
        dense=SimpleNamespace(module=SimpleNamespace(graph=SimpleNamespace(nodes=()))),
        cost=SimpleNamespace(params=lambda kept: 1, macs=lambda kept: 1),
        widths=lambda kept: (),
        builder=SimpleNamespace(artefact="model.onnx"),
    )
    return order, workshop


def simulated_fit(weather: Weather, folder: Path, rng: np.random.Generator) -> Verdict:
    """One fit. folder: with an artefact for each form."""
    own = {DENSE: float(rng.uniform(2.0, 20.0))}
    own[DENSE_INT8] = own[DENSE] * float(rng.uniform(0.4, 0.9))
    spread = {name: _percentile_ms(ms, PERCENTILE) for name, ms in own.items()}
    proven = {name: _proof_ms(ms) for name, ms in own.items()}
    name = str(rng.choice([DENSE, DENSE_INT8]))
    share = float(rng.uniform(1 + SPARE, 1.4)) if rng.random() < 0.5 else float(rng.uniform(0.7, 1 - SPARE))
    latency_ms = share * (proven[name] if share > 1 else spread[name])
    device = Simulated(weather, own, rng)
    order, workshop = _stubs(device, latency_ms)
    trials = Forms(order, workshop, Books(folder))

    def int8(trials: Trials, rung: str) -> str:
        trials.run(DENSE_INT8, Candidate((), "int8"))
        return DENSE_INT8

    # Whether a form is within the budget, by what is asked: a miss needs that a quiet proof would fit.
    fits = {form: proven[form] * (1 + SPARE / 2) <= latency_ms for form in own}
    kept = {form: spread[form] <= latency_ms for form in own}
    with mock.patch.multiple(loop, dense_int8=int8, light_variants=lambda trials, start: iter(())):
        try:
            trials.run(DENSE, Candidate((), "float32"), kind="dense")
            tier = loop._answered(trials, "none").tier
        except DeviceBusy:
            return Verdict(weather.name, "busy", "", fits, device.now)
    kind = tier.verdict.kind
    return Verdict(weather.name, kind, tier.chosen.name, kept if kind == "fits" else fits, device.now)


def _percentile_ms(own_ms: float, percentile: float) -> float:
    """Of a model's own times, which are log-normal."""
    from scipy.special import ndtri

    return float(own_ms * np.exp(SIGMA * ndtri(percentile / 100)))


def _proof_ms(own_ms: float) -> float:
    """Bound that a quiet proof of a model finds, at most but for one in a thousand."""
    return _percentile_ms(own_ms, 94.5)


def fits(count: int, seed: int = 0) -> Iterator[Verdict]:
    """Verdicts of `count` fits, the weathers in turn."""
    with TemporaryDirectory() as place:
        for form in (DENSE, DENSE_INT8):
            (Path(place) / form).mkdir()
            (Path(place) / form / "model.onnx").write_bytes(b"artefact")
        for number in range(count):
            rng = np.random.default_rng((seed, number))
            yield simulated_fit(WEATHERS[number % len(WEATHERS)], Path(place), rng)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__.splitlines()[0])
    parser.add_argument("--fits", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    found = list(fits(asked.fits, asked.seed))
    print("| beside | fits | misses | inconclusive | false misses | false fits | cut deeper | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for name in [*(weather.name for weather in WEATHERS), "all"]:
        rows = [each for each in found if name in (each.weather, "all")]
        kinds = Counter("inconclusive" if each.kind == "busy" else each.kind for each in rows)
        counts = [kinds["fits"], kinds["misses"], kinds["inconclusive"]]
        counts += [
            sum(getattr(each, what) for each in rows) for what in ("false_miss", "false_fit", "deeper")
        ]
        seconds = np.median([each.seconds for each in rows])
        print(f"| {name} | {' | '.join(map(str, counts))} | {seconds:.0f} |")


if __name__ == "__main__":
    main()
