"""The mixture of float and INT8 layers: the least of all there are, by its own costs."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.latency.min_cut import ALWAYS_FLOAT, Times, Value, crossed, slower_in_int8, total_ms

MS = st.floats(0.0, 10.0, allow_subnormal=False)
Graph = tuple[dict[str, Times], list[Value]]


@st.composite
def graphs(draw: st.DrawFn, most: int = 7) -> Graph:
    """Layers in order; each value is made by one of them, or by none, and read by later ones."""
    count = draw(st.integers(1, most))
    names = [f"layer{at}" for at in range(count)]
    times = {name: Times(draw(MS), draw(MS)) for name in names}
    values = []
    for at, maker in enumerate([ALWAYS_FLOAT, *names]):
        later = [*names[at:], ALWAYS_FLOAT]
        readers = draw(st.lists(st.sampled_from(later), min_size=1, max_size=3, unique=True))
        followers = draw(st.lists(st.sampled_from(readers), max_size=1)) if maker != ALWAYS_FLOAT else []
        followers = [name for name in followers if name != ALWAYS_FLOAT]
        values.append(Value(maker, tuple(readers), draw(MS), tuple(followers)))
    return times, values


def possible(graph: Graph) -> list[frozenset[str]]:
    """Every set of float layers in which integers go through those that follow."""
    times, values = graph
    sets = [
        frozenset(name for name, chosen in zip(times, choice, strict=True) if chosen)
        for choice in product((False, True), repeat=len(times))
    ]
    return [
        in_float
        for in_float in sets
        if not any(v.maker not in in_float and in_float & set(v.followers) for v in values)
    ]


@given(graphs())
def test_no_other_choice_takes_less(graph: Graph) -> None:
    times, values = graph
    chosen = slower_in_int8(times, values)
    least = min(total_ms(times, values, in_float) for in_float in possible(graph))
    assert chosen in possible(graph)
    assert total_ms(times, values, chosen) == pytest.approx(least, rel=1e-6, abs=1e-6)


@given(graphs(most=16))
def test_it_is_never_slower_than_one_precision_for_all(graph: Graph) -> None:
    times, values = graph
    found = total_ms(times, values, slower_in_int8(times, values))
    slack = 1e-5 * (1 + found)
    assert found <= total_ms(times, values, frozenset()) + slack
    assert found <= total_ms(times, values, frozenset(times)) + slack


def test_a_slow_layer_goes_back_when_the_conversions_around_it_cost_less_than_it_saves() -> None:
    times = {"a": Times(3.0, 1.0), "b": Times(1.0, 2.0), "c": Times(3.0, 1.0)}

    def chain(ms: float) -> list[Value]:
        return [Value(ALWAYS_FLOAT, ("a",), 0.0), Value("a", ("b",), ms), Value("b", ("c",), ms)]

    assert slower_in_int8(times, chain(0.4)) == {"b"}
    assert slower_in_int8(times, chain(0.6)) == frozenset()


def test_a_value_is_converted_once_for_all_who_read_it() -> None:
    """Each product alone does not pay for the conversion, three of them do."""
    times = {name: Times(1.0, 0.6) for name in ("q", "k", "v")}
    assert slower_in_int8(times, [Value(ALWAYS_FLOAT, ("q", "k", "v"), 1.0)]) == frozenset()
    assert slower_in_int8(times, [Value(ALWAYS_FLOAT, (name,), 1.0) for name in times]) == set(times)


def test_an_addition_computes_on_integers_where_one_of_its_inputs_is_integer() -> None:
    times = {"a": Times(2.0, 1.0), "b": Times(2.0, 1.0), "add": Times(0.1, 1.0), "c": Times(1.0, 1.5)}
    values = [
        Value("a", ("add",), 0.3, ("add",)),
        Value("b", ("add",), 0.3, ("add",)),
        Value("add", ("c",), 0.2),
    ]
    assert slower_in_int8(times, values) == {"c"}
    assert [value.maker for value in crossed(values, frozenset({"c"}))] == ["add"]


def test_layers_that_are_equally_quick_stay_in_int8() -> None:
    assert slower_in_int8({"a": Times(1.0, 1.0)}, []) == frozenset()
    assert slower_in_int8({"a": Times(0.0, 0.0)}, []) == frozenset()
    assert slower_in_int8({}, []) == frozenset()
