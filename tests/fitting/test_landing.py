"""Landing by a table that is wrong about the device, and drafts that are wrong about what is built."""

from __future__ import annotations

from itertools import chain, repeat
from types import SimpleNamespace
from typing import Any

import pytest

from edgeprune.fitting.landing import Landing, confirmed, limits
from edgeprune.fitting.space.space import BYTES, LATENCY
from edgeprune.records.trial import Candidate
from edgeprune.search.bracketing import Probe, zone

RECIPE = Candidate((), "int8", "minmax")
WHOLE, LESS, LEAST = {"group": tuple(range(8))}, {"group": (0, 1, 2, 3)}, {"group": (0,)}


class Device:
    """Trials and drafts, and milliseconds by the units kept."""

    def __init__(
        self, ms: dict[int, float], *, drafts: bool = True, off: float = 1.0, float_factor: float = 2.0
    ) -> None:
        """drafts: are there any? off: times the milliseconds of a draft, what is built takes.

        float_factor: times the milliseconds of INT8, what float takes.
        """
        self.ms, self.proof_ms, self.conclusive = ms, ms, True
        self.tested, self.builds = {"dense-int8": self._tested(RECIPE)}, 0
        self.proven: set[str] = set()
        self.drafts = Drafted()
        self.workshop = SimpleNamespace(cost=SimpleNamespace(macs=_units))
        self.can_draft, self.off, self.float_factor = drafts, off, float_factor

    def draft(self, candidate: Candidate) -> str | None:
        if not self.can_draft:
            return None
        name = f"draft-{len(self.drafts.known) + 1:02}"
        self.drafts.known[name] = self._tested(candidate)
        return name

    @property
    def candidates(self) -> dict[str, Any]:
        return {name: tested for name, tested in self.tested.items() if name.startswith("trial")}

    def fixed(self, name: str) -> dict[str, float]:
        return {}

    def build(self, candidate: Candidate) -> str:
        self.builds += 1
        name = f"trial-{self.builds:02}"
        self.tested[name] = self._tested(candidate)
        return name

    def prove(self, name: str) -> None:
        self.proven.add(name)
        self.ms = self.proof_ms

    def seen_within(self, name: str) -> bool:
        return False

    def uses(self, name: str) -> dict[str, float]:
        drafted = name in self.drafts.known
        found = (self.drafts.known if drafted else self.tested)[name]
        kept = dict(found.candidate.kept).get("group", WHOLE["group"])
        factor = self.float_factor if found.candidate.precision == "float32" else 1.0
        return {"latency_ms": factor * self.ms[len(kept)] / (self.off if drafted else 1.0)}

    def use(self, name: str) -> float:
        return self.uses(name)["latency_ms"]

    def zone(self) -> Any:
        return zone([])

    def _tested(self, candidate: Candidate) -> Any:
        measurement = SimpleNamespace(conclusive=self.conclusive)
        return SimpleNamespace(candidate=candidate, layers_float=(), measurement=measurement)


class Drafted:
    def __init__(self) -> None:
        self.known: dict[str, Any] = {}

    @property
    def measured(self) -> dict[str, Any]:
        return {name: draft.measurement for name, draft in self.known.items()}

    def of(self, candidate: Candidate) -> str | None:
        return next((name for name, draft in self.known.items() if draft.candidate == candidate), None)


def landed(ms: dict[int, float], **options: Any) -> tuple[Probe | None, Any]:
    """By a table that sees its least time at half of the units, whatever it is asked for."""
    return _landed(lambda limits: _plan(LESS), ms, **options)


def landed_in_proportion(ms: dict[int, float], **options: Any) -> tuple[Probe | None, Any]:
    return _landed(in_proportion, ms, **options)


def in_proportion(limits: dict[str, float]) -> Any:
    """A table that has time in proportion to the units."""
    return _plan({"group": tuple(range(max(1, min(8, int(limits[LATENCY] * 8 + 1e-9)))))})


def _landed(keep: Any, ms: dict[int, float], **options: Any) -> tuple[Probe | None, Any]:
    landing, device = _landing(keep, ms, **options)
    return landing.land([Probe(1.0, ms[8], "dense-int8")]), device


def _landing(keep: Any, ms: dict[int, float], **options: Any) -> tuple[Landing, Any]:
    space: Any = SimpleNamespace(
        precisions=None,
        prediction=object(),
        keep=keep,
        by_work=lambda share: _plan(LEAST),
        costs=lambda kept, layers: {LATENCY: _units(kept) / 8, BYTES: float(_units(kept))},
        value=lambda kept, layers: _units(kept) / 8,
    )
    device: Any = Device(ms, **options)
    return Landing(device, space, RECIPE), device


def _units(kept: Any) -> int:
    return len(kept.get("group", WHOLE["group"]))


def _plan(kept: dict[str, tuple[int, ...]]) -> Any:
    return SimpleNamespace(kept=kept, float_layers=(), gone=frozenset())


def test_drafts_are_measured_until_one_lands_and_only_that_is_built() -> None:
    found, device = landed_in_proportion({8: 1.5, 7: 1.45, 6: 1.2, 5: 1.1, 4: 0.98, 3: 0.8})
    assert found is not None
    assert (found.name, found.use, device.builds) == ("trial-01", pytest.approx(0.98), 1)
    assert len(device.drafts.known) == 2, "in proportion to the whole it is five of eight, then four"


def test_of_drafts_that_fit_the_one_of_most_worth_is_built_not_the_one_that_keeps_most() -> None:
    """Without one in the zone. What is worth more takes longer here, and keeps less."""
    asked = chain([range(5)], repeat(range(4)))
    landing, device = _landing(lambda limits: _plan({"group": tuple(next(asked))}), {8: 2.0, 5: 0.8, 4: 0.9})
    space: Any = landing.space
    space.value = lambda kept, layers: -len(kept.get("group", ()))
    found = landing.land([Probe(1.0, 2.0, "dense-int8")])
    assert found is not None
    assert (found.use, device.builds) == (pytest.approx(0.9), 1)


def test_what_cannot_be_drafted_is_built_at_once() -> None:
    found, device = landed_in_proportion({8: 1.5, 7: 1.45, 6: 1.2, 5: 1.1, 4: 0.98, 3: 0.8}, drafts=False)
    assert found is not None
    assert (found.name, found.use, device.builds) == ("trial-02", pytest.approx(0.98), 2)


def test_drafts_are_corrected_by_what_was_built_of_one() -> None:
    """A draft of five units lands, and takes a tenth more once it is built: then four units do."""
    found, device = landed_in_proportion({8: 1.5, 5: 1.078, 4: 0.98, 3: 0.8, 6: 1.3}, off=1.1)
    assert found is not None
    assert (found.name, found.use, device.builds) == ("trial-02", pytest.approx(0.98), 2)


def test_what_is_built_stays_when_no_draft_comes_nearer() -> None:
    found, device = landed_in_proportion({8: 2.0, 4: 0.9, 5: 1.2, 3: 0.7, 6: 1.4, 7: 1.6, 2: 0.5, 1: 0.3})
    assert found is not None
    assert (found.use, device.builds) == (pytest.approx(0.9), 1)


@pytest.mark.parametrize(
    ("ms", "step"),
    [({8: 2.0, 6: 1.4, 4: 0.9}, True), ({8: 2.0, 6: 1.2, 4: 0.7}, False), ({8: 2.0, 6: 1.4, 4: 0.98}, False)],
    ids=["five are over", "five are within", "in the zone"],
)
def test_a_candidate_is_at_a_step_when_the_table_has_nothing_more_within_the_budget(
    ms: dict[int, float], step: bool
) -> None:
    """Six units were drafted; what five take lies between."""
    landing, device = _landing(in_proportion, ms)
    device.draft(Candidate((("group", tuple(range(6))),), "int8", "minmax"))
    device.build(Candidate((("group", LESS["group"]),), "int8", "minmax"))
    probes = [Probe(1.0, 2.0, "dense-int8"), landing.probe("trial-01")]
    assert landing.at_a_step("trial-01", ms[4], probes) is step


def test_the_smallest_candidate_is_built_before_a_budget_is_said_to_be_missed() -> None:
    found, device = landed({8: 2.0, 4: 1.2, 1: 0.9}, drafts=False)
    assert found is not None
    assert found.use == pytest.approx(0.9)
    assert device.builds == 2


@pytest.mark.parametrize(("drafts", "builds"), [(True, 1), (False, 3)], ids=["drafted", "built"])
def test_what_the_smallest_candidate_breaks_too_is_missed(drafts: bool, builds: int) -> None:
    found, device = landed({8: 2.0, 4: 1.2, 1: 1.1}, drafts=drafts)
    assert found is None
    assert device.builds == builds
    assert (
        device.tested["trial-01"].candidate == Candidate((("group", LEAST["group"]),), "int8", "minmax")
        or not drafts
    )


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


def test_the_smallest_candidate_is_tried_in_float_before_a_budget_is_said_to_be_missed() -> None:
    """A runtime may take more memory, or longer, for INT8 than it saves on so little."""
    found, device = landed({8: 2.0, 4: 1.2, 1: 1.1}, float_factor=0.8)
    assert found is not None
    assert (found.use, device.builds) == (pytest.approx(0.88), 1)
    assert device.tested[found.name].candidate == Candidate((("group", LEAST["group"]),), "float32")


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
    device.build(Candidate((("group", LESS["group"]),), "int8", "minmax"))
    probes = [Probe(1.0, 2.0, "dense-int8"), Probe(0.5, 0.98, "trial-01")]
    assert confirmed(device, probes, probes[1]) is lands
    assert probes[1].use == pytest.approx(proof_ms)
    assert confirmed(device, probes, probes[1]), "it is proven once"


def test_what_the_runtime_takes_is_not_expected_to_shrink_with_the_model() -> None:
    """60 of 64 MiB are the runtime's: to give up 1 MiB of 70, a tenth of the model's bytes must go."""
    here = {BYTES: 10.0}, {"memory_mib": 70 / 64}
    allowed = limits(*here, 69 / 64, fixed={"memory_mib": 60 / 64})[BYTES]
    assert allowed == pytest.approx(9.0)
    known = {BYTES: 5.0}, {"memory_mib": 68 / 64}
    assert limits(*here, 69 / 64, [known], fixed={"memory_mib": 60 / 64})[BYTES] == pytest.approx(7.5)
