"""Landing by a table that is wrong about the device."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edgeprune.fitting.landing import confirmed, land_by_table, limits
from edgeprune.fitting.space import BYTES, LATENCY
from edgeprune.records.machine import Budget
from edgeprune.records.trial import Candidate
from edgeprune.search.landing import Probe, zone

BUDGET, RECIPE = Budget(latency_ms=1.0), Candidate((), "int8", "minmax")
WHOLE, LESS, LEAST = {"group": tuple(range(8))}, {"group": (0, 1, 2, 3)}, {"group": (0,)}


class Device:
    """Trials, and milliseconds by the units kept."""

    def __init__(self, ms: dict[int, float]) -> None:
        self.ms, self.proof_ms, self.conclusive = ms, ms, True
        self.tested, self.builds = {"dense-int8": self._tested(RECIPE)}, 0
        self.proven: set[str] = set()

    def run(self, name: str, candidate: Candidate) -> None:
        self.tested[name] = self._tested(candidate)
        self.builds += 1

    def prove(self, name: str, budget: Budget) -> None:
        self.proven.add(name)
        self.ms = self.proof_ms

    def next_name(self) -> str:
        return f"trial-{self.builds + 1:02}"

    def uses(self, name: str, budget: Budget) -> dict[str, float]:
        kept = dict(self.tested[name].candidate.kept).get("group", WHOLE["group"])
        return {"latency_ms": self.ms[len(kept)]}

    def use(self, name: str, budget: Budget) -> float:
        return self.uses(name, budget)["latency_ms"]

    def zone(self) -> Any:
        return zone([])

    def _tested(self, candidate: Candidate) -> Any:
        measurement = SimpleNamespace(conclusive=self.conclusive)
        return SimpleNamespace(candidate=candidate, layers_float=(), measurement=measurement)


def landed(ms: dict[int, float]) -> tuple[Probe | None, Any]:
    """By a table that sees its least time at half of the units, whatever it is asked for."""
    space = SimpleNamespace(
        joint=None,
        keep=lambda limits: _plan(LESS),
        by_work=lambda share: _plan(LEAST),
        costs=lambda kept, layers: {LATENCY: 1.0, BYTES: float(len(kept.get("group", WHOLE["group"])))},
    )
    workshop = SimpleNamespace(cost=SimpleNamespace(macs=lambda kept: len(kept.get("group", range(8)))))
    device: Any = Device(ms)
    probes = [Probe(1.0, ms[8], "dense-int8")]
    return land_by_table(workshop, space, device, BUDGET, RECIPE, probes), device  # type: ignore[arg-type]


def _plan(kept: dict[str, tuple[int, ...]]) -> Any:
    return SimpleNamespace(kept=kept, float_layers=(), gone=frozenset())


def test_the_smallest_candidate_is_built_before_a_budget_is_said_to_be_missed() -> None:
    found, device = landed({8: 2.0, 4: 1.2, 1: 0.9})
    assert found is not None
    assert found.use == pytest.approx(0.9)
    assert device.builds == 2


def test_what_the_smallest_candidate_breaks_too_is_missed() -> None:
    found, device = landed({8: 2.0, 4: 1.2, 1: 1.1})
    assert found is None
    assert device.builds == 2


def test_between_models_on_both_sides_of_the_budget_the_aim_lies_between_them() -> None:
    def of(cost: float, use: float) -> tuple[dict[str, float], dict[str, float]]:
        return {LATENCY: cost, BYTES: 1.0}, {"latency_ms": use}

    over, under, dense = of(1.10, 1.08), of(1.0, 0.9), of(1.5, 1.5)
    assert limits(*under, 0.99)[LATENCY] == pytest.approx(1.1), "as wide as what is over"
    assert limits(*under, 0.99, [over, dense])[LATENCY] == pytest.approx(1.05)
    assert limits(*over, 0.99, [under, dense])[LATENCY] == pytest.approx(1.05)
    assert limits(*over, 0.99, [dense])[LATENCY] == pytest.approx(1.10 * 0.99 / 1.08), "none is under it"
    contrary = of(1.2, 0.9)
    assert limits(*over, 0.99, [contrary])[LATENCY] == pytest.approx(1.10 * 0.99 / 1.08)
    assert limits(*under, 0.99, [over], 0.5)[LATENCY] == pytest.approx(1.0 + 0.1 * 0.09 / 0.135)


def test_on_one_side_of_the_budget_a_second_model_shortens_the_way() -> None:
    """Half of the time follows the table, the other half no width: in proportion it would creep."""

    def of(cost: float) -> tuple[dict[str, float], dict[str, float]]:
        return {LATENCY: cost, BYTES: 1.0}, {"latency_ms": 0.6 + 0.5 * cost}

    one = of(1.0)
    first = limits(*one, 0.985)[LATENCY]
    assert first == pytest.approx(0.985 / 1.1)
    other = of(first)
    assert limits(*other, 0.985, [one])[LATENCY] == pytest.approx((0.985 - 0.6) / 0.5)
    assert limits(*of(0.7), 0.985, [of(0.66)])[LATENCY] == pytest.approx((0.985 - 0.6) / 0.5), "from below"


def test_a_second_model_neither_shortens_a_step_nor_makes_it_longer_than_three() -> None:
    def of(cost: float, use: float) -> tuple[dict[str, float], dict[str, float]]:
        return {LATENCY: cost, BYTES: 1.0}, {"latency_ms": use}

    here = of(1.0, 1.1)
    assert limits(*here, 0.99, [of(1.1, 1.101)])[LATENCY] == pytest.approx(1 - 3 * 0.1), "hardly slower"
    in_proportion = pytest.approx(0.9)
    assert limits(*here, 0.99, [of(1.1, 1.3)])[LATENCY] == in_proportion, "much slower"
    assert limits(*here, 0.99, [of(1.1, 1.05)])[LATENCY] == in_proportion, "quicker, although it costs more"
    assert limits(*here, 0.99, [of(1.01, 1.101)])[LATENCY] == in_proportion, "hardly other"
    assert limits(*here, 0.99, [of(3.0, 1.6)])[LATENCY] == in_proportion, "far away"


def test_where_something_fits_the_smallest_candidate_is_not_built() -> None:
    found, device = landed({8: 2.0, 4: 0.8, 1: 0.1})
    assert found is not None
    assert (found.use, device.builds) == (pytest.approx(0.8), 1)


@pytest.mark.parametrize(
    ("proof_ms", "conclusive", "lands"),
    [(0.99, True, True), (0.99, False, False), (0.999, True, False), (1.01, True, False), (0.9, True, False)],
    ids=["in the zone", "open", "too near to the budget to hold", "over the budget", "below the zone"],
)
def test_a_proof_in_the_zone_lands(proof_ms: float, conclusive: bool, lands: bool) -> None:
    device: Any = Device({8: 2.0, 4: 0.98})
    device.conclusive, device.proof_ms = conclusive, {8: 2.0, 4: proof_ms}
    device.run("trial-01", Candidate((("group", LESS["group"]),), "int8", "minmax"))
    probes = [Probe(1.0, 2.0, "dense-int8"), Probe(0.5, 0.98, "trial-01")]
    assert confirmed(device, BUDGET, probes, probes[1]) is lands
    assert probes[1].use == pytest.approx(proof_ms)
    assert confirmed(device, BUDGET, probes, probes[1]), "it is proven once"
