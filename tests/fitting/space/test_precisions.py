"""Widths, branches and precisions chosen together, from tables that a test writes down."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

import edgeprune
from edgeprune.fitting.landing import made
from edgeprune.fitting.space.precisions import (
    PrecisionChoice,
    int8,
    mixed_designs,
    precision_choice,
    quicker_in_float,
)
from edgeprune.fitting.space.space import BYTES, LATENCY, Space
from edgeprune.graph.branch_contents import branch_contents, branch_nodes
from edgeprune.latency.curves import LatencyTable, Row, Whole
from edgeprune.latency.measured import Prediction
from edgeprune.latency.operators import START, Nodes
from edgeprune.make import Workshop
from edgeprune.pruning.sensitivity import Sensitivity
from edgeprune.quantize.dialects import TABLE
from edgeprune.records.trial import Candidate
from edgeprune.search.moves import SLACK

FIXED, EACH = 0.02, 1e-3  # of a conversion, and of an element in it
SLOW = "conv2"  # is slower in INT8 than in float


class Net(nn.Module):
    """[N, 2, 4, 4] -> [N, 3]: a stem, a residual branch, a layer behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.after = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.conv1, self.conv2 = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.conv2(torch.relu(self.conv1(x))))
        return self.head(torch.relu(self.after(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def workshop() -> Workshop:
    torch.manual_seed(0)
    task = edgeprune.Task(
        model=Net().eval(),
        example=torch.randn(1, 2, 4, 4),
        calibration=[torch.randn(8, 2, 4, 4)],
        evaluate=lambda predict: 1.0,
    )
    return Workshop(task, TABLE["onnxruntime-x86"])


def _ms(reads: int, writes: int, speed: float) -> float:
    return speed * (0.01 + 1e-3 * max(reads, 1) * writes)


def _table(workshop: Workshop, *, integer: bool) -> Prediction:
    """Layers take time by both widths; INT8 takes half as long, but three times in one of them."""
    nodes = Nodes(workshop.resizable).nodes
    rows = []
    numbers = np.random.default_rng(0)
    weighted = [node for node in nodes.values() if node.operator.startswith(("Conv", "Gemm"))]
    for node in weighted:
        speed = (3.0 if SLOW in node.name or _layer(workshop, node.name) == SLOW else 0.5) if integer else 1.0
        for _ in range(40):
            widths = {
                group.name: int(numbers.integers(1, group.units + 1)) for group in workshop.coupling.groups
            }
            reads, writes = node.widths(widths)
            rows.append(Row(f"{node.name}", node.name, reads, writes, _ms(reads, writes, speed)))
    own = {node.name: replace(node, operator=node.name) for node in weighted}
    return Prediction(own, LatencyTable(tuple(rows)))


def _layer(workshop: Workshop, node: str) -> str:
    from edgeprune.graph import onnxfile

    model = workshop.resizable.model
    names = {model.graph.node[at].name: layer for at, layer in onnxfile.layers(model).items()}
    return names.get(node, "")


LAYERS = ("stem", "conv1", "conv2", "after", "head")


@pytest.fixture(scope="module")
def choice(workshop: Workshop) -> PrecisionChoice:
    plain, integer = _table(workshop, integer=False), _table(workshop, integer=True)
    found = precision_choice(plain, integer, workshop.resizable, LAYERS)
    return replace(found, fixed_ms=FIXED, element_ms=EACH)


@pytest.fixture(scope="module")
def space(workshop: Workshop, choice: PrecisionChoice) -> Space:
    choices = workshop.ranking(1).choices
    errors = tuple(
        (each.name, ((len(each.scores) // 2, 0.2), (len(each.scores) * 3 // 4, 0.05))) for each in choices
    )
    (branch,) = workshop.coupling.branches
    return Space(
        workshop.coupling,
        workshop.cost,
        choices,
        prediction=choice.integer,
        sensitivity=Sensitivity(errors, ((branch.name, 0.3),)),
        branch_contents=branch_contents(workshop.dense.module, workshop.coupling),
        branch_nodes=branch_nodes(
            workshop.resizable.model, workshop.dense.module, workshop.coupling.branches
        ),
        precisions=choice,
    )


def test_the_problem_costs_what_the_items_do_and_a_model_is_worth_what_it_says(
    space: Space,
) -> None:
    numbers = np.random.default_rng(1)
    (branch,) = space.coupling.branches
    for _ in range(20):
        options = {each.name: int(numbers.integers(each.values.size)) for each in space.problem.decisions}
        kept = {
            name: tuple(range(space.options[name][at]))
            for name, at in options.items()
            if name in space.options
        }
        if options[branch.name] == 0:
            kept[branch.name] = ()
        left = tuple(layer for layer in LAYERS if options[int8(layer)] == 0)
        for resource, cost in space.costs(kept, left).items():
            assert space.problem.cost(options, resource) == pytest.approx(cost)
        assert space.value(kept, left) == pytest.approx(space.problem.value(options))


def test_inputs_are_quantised_for_the_first_layer_alone(workshop: Workshop, choice: PrecisionChoice) -> None:
    start = Row(START, START, 0, 0, 0.05)
    table = LatencyTable((*choice.integer.table.rows, start))
    integer = Prediction({**choice.integer.nodes, START: Nodes(workshop.resizable).nodes[START]}, table)
    found = precision_choice(choice.plain, integer, workshop.resizable, LAYERS)
    widths = {group.name: group.units for group in workshop.coupling.groups}

    def ms(*in_float: str) -> float:
        items = found.items(LATENCY, lambda node: ())
        return sum(item.cost(widths, {int8(layer): 0 for layer in in_float}) for item in items)

    assert ms(*LAYERS) == pytest.approx(choice.plain.ms(widths))
    assert ms() == pytest.approx(integer.ms(widths))
    first = integer.node_ms("stem", widths) - choice.plain.node_ms("stem", widths)
    assert ms() - ms("stem") == pytest.approx(0.05 + first)


def test_a_layer_is_quicker_in_float_when_it_is_at_the_widest_or_the_narrowest() -> None:
    wide, narrow, between = ((("a", units),) for units in (64, 8, 32))
    owners = {"conv": "conv", "relu": "conv", "head": "head", "tail": "tail"}

    def table(**ms: tuple[float, ...]) -> LatencyTable:
        """Milliseconds of each node, by model; of the copy between them that follows no layer too."""
        models = (wide, between, narrow) if len(ms["conv"]) == 3 else (wide, narrow)
        rows = [Row(node, node, 0, 8, each) for node, times in ms.items() for each in times]
        return LatencyTable(tuple(rows), tuple(Whole(widths, 10.0) for widths in models))

    integer = table(conv=(4, 9, 2), relu=(1, 0, 1), head=(3, 9, 1.0), tail=(1, 9, 1), copy=(9, 9, 9))
    plain = table(conv=(8, 2), relu=(1, 0.5), head=(4, 0.9), tail=(2, 0.96), copy=(0, 0))
    assert quicker_in_float(plain, integer, owners) == {"conv", "head"}
    assert quicker_in_float(LatencyTable(()), integer, owners) == frozenset()


def test_a_dropped_branch_costs_nothing_and_loses_its_own_error_alone(space: Space) -> None:
    (branch,) = space.coupling.branches
    options = {each.name: each.values.size - 1 for each in space.problem.decisions}
    without = {**options, branch.name: 0}
    assert space.problem.value(options) == 0
    assert space.problem.value(without) == pytest.approx(-0.3)
    assert space.problem.value({**without, "conv1": 0}) == pytest.approx(-0.3)
    assert space.problem.cost({**without, "conv1": 0}, LATENCY) == space.problem.cost(without, LATENCY)
    saved = space.problem.cost(options, BYTES) - space.problem.cost(without, BYTES)
    inside = [p for n, p in space_parameters(space) if n.startswith(("conv1", "conv2"))]
    assert saved == sum(size * (1 if size > 16 else 4) for size in inside)


def space_parameters(space: Space) -> list[tuple[str, int]]:
    return [
        (use.name, int(np.prod(use.shape))) for use in space.coupling.parameters.values() if use.trainable
    ]


def test_a_branch_leaves_where_that_loses_least(space: Space) -> None:
    (branch,) = space.coupling.branches
    whole = space.costs({})
    gone = space.costs({branch.name: ()})
    plan = space.keep({LATENCY: gone[LATENCY] * 1.001})
    assert plan.kept[branch.name] == ()
    assert "conv1" not in plan.kept
    free = replace(space, sensitivity=replace(space.sensitivity, branches=((branch.name, 50.0),)))  # type: ignore[type-var]
    assert branch.name not in free.keep({LATENCY: 0.8 * whole[LATENCY]}).kept


def test_weights_take_a_byte_in_int8_and_four_in_float(space: Space) -> None:
    whole, left = space.costs({}), space.costs({}, ("conv1",))
    assert left[BYTES] - whole[BYTES] == 3 * 8 * 16 * 9


def test_a_layer_that_int8_slows_down_is_float_where_its_borders_cost_less(space: Space) -> None:
    whole = space.costs({})[LATENCY]
    cheap = replace(
        space,
        precisions=replace(space.precisions, fixed_ms=1e-4, element_ms=0.0),
        sensitivity=_keeps_branch(space),
    )  # type: ignore[type-var]
    assert SLOW in cheap.keep({LATENCY: 0.6 * whole}).float_layers
    dear = replace(
        space,
        precisions=replace(space.precisions, fixed_ms=5.0, element_ms=0.0),
        sensitivity=_keeps_branch(space),
    )  # type: ignore[type-var]
    assert dear.keep({LATENCY: 0.6 * whole}).float_layers in ((), LAYERS)


def _keeps_branch(space: Space) -> Sensitivity:
    (branch,) = space.coupling.branches
    return replace(space.sensitivity, branches=((branch.name, 100.0),))  # type: ignore[type-var]


def test_the_allocation_of_few_layers_is_the_best_of_all(space: Space) -> None:
    """Every precision of every layer and the branch, at whole widths, tried one by one."""
    narrow = replace(space, floor=1.0, sensitivity=_keeps_branch(space))
    fastest = min(
        narrow.costs({}, tuple(layer for layer, on in zip(LAYERS, setting, strict=True) if not on))[LATENCY]
        for setting in product((0, 1), repeat=len(LAYERS))
    )
    plan = narrow.keep({LATENCY: fastest * (1 + 1e-9)})
    assert narrow.costs({}, plan.float_layers)[LATENCY] == pytest.approx(fastest)


def test_size_and_latency_bind_alone_and_together(space: Space) -> None:
    whole = space.costs({}, LAYERS)
    for limits in (
        {LATENCY: 0.5 * whole[LATENCY]},
        {BYTES: 0.2 * whole[BYTES]},
        {LATENCY: 0.6 * whole[LATENCY], BYTES: 0.2 * whole[BYTES]},
    ):
        plan = space.keep(limits)
        costs = space.costs(plan.kept, plan.float_layers)
        assert plan.allocation.feasible
        assert all(costs[resource] <= limit * (1 + SLACK) for resource, limit in limits.items())


def test_what_conversions_cost_is_learnt_from_mixed_designs(space: Space, choice: PrecisionChoice) -> None:
    widths = [
        {group.name: group.units for group in space.coupling.groups},
        {group.name: group.units // 2 for group in space.coupling.groups},
    ]
    wholes = []
    for at, left in mixed_designs(choice.layers, widths):
        kept = {name: tuple(range(units)) for name, units in at.items()}
        wholes.append(Whole(tuple(at.items()), space.costs(kept, left)[LATENCY], left))
    learnt = replace(choice, fixed_ms=0.0, element_ms=0.0).learnt(wholes)
    assert learnt.fixed_ms == pytest.approx(FIXED, rel=1e-3)
    assert learnt.element_ms == pytest.approx(EACH, rel=1e-3)


def test_a_plan_is_a_candidate_and_a_model_without_int8_is_a_float_one(space: Space) -> None:
    recipe = Candidate((), "int8", "minmax", float_layers=(), recover="reconstruct")
    found = space.keep({LATENCY: 0.5 * space.costs({}, LAYERS)[LATENCY]})
    plan = replace(found, float_layers=("conv2",), gone=frozenset())
    some = made(recipe, plan, space)
    assert (some.precision, some.float_layers) == ("int8", ("conv2",))
    assert dict(some.kept) == plan.kept
    gone = made(replace(recipe, float_layers=("conv1",)), replace(plan, gone=frozenset({"conv1"})), space)
    assert "conv1" not in gone.float_layers  # a layer that is not there cannot be named
    none = made(recipe, replace(plan, float_layers=LAYERS), space)
    assert none == Candidate(some.kept, "float32", recover="reconstruct")
