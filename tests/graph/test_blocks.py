"""The algebra of blocks, without a graph."""

from __future__ import annotations

from math import prod

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.graph.blocks import SYMBOLIC_BATCH, Block, Book, Operand, merge, project, reshape


def groups(book: Book) -> list[list[int]]:
    """Atoms by class, smallest first."""
    classes = book.classes()
    return sorted(np.flatnonzero(classes == name).tolist() for name in np.unique(classes))


def test_union_is_transitive() -> None:
    book = Book()
    a, b, c = book.fresh(2), book.fresh(2), book.fresh(2)
    book.unite(a, b)
    book.unite(b, c[::-1])
    assert groups(book) == [[0, 2, 5], [1, 3, 4]]


def test_collapsing_an_axis_unites_all_that_share_an_index_of_it() -> None:
    book = Book()
    ids = book.fresh(6).reshape(2, 3)
    assert book.collapse(ids, axis=1).tolist() == [0, 1, 2]
    assert groups(book) == [[0, 3], [1, 4], [2, 5]]


def test_a_contraction_unites_the_summed_sides_and_passes_the_others() -> None:
    book = Book()
    x, out, inside = book.fresh(3), book.fresh(4), book.fresh(3)
    operands = [
        Operand((Block((1,), x),), ("batch", "in")),
        Operand((Block((0,), out), Block((1,), inside)), ("out", "in"), weight=True),
    ]
    merged = merge(book, operands, ["batch", "out", "in"], "linear", "aten.linear")
    (block,) = project(book, merged, ["batch", "out"])
    assert block.dims == (1,)
    assert block.ids.tolist() == out.tolist()
    assert groups(book) == [[0, 7], [1, 8], [2, 9], [3], [4], [5], [6]]


def test_a_side_that_meets_an_untracked_dimension_is_frozen_with_the_operation() -> None:
    book = Book()
    weight = Operand((Block((0,), book.fresh(2)), Block((1,), book.fresh(3))), ("out", "in"))
    merged = merge(book, [Operand((), ("batch", "in")), weight], ["batch", "out", "in"], "fc", "aten.linear")
    assert list(merged) == [("out",)]
    (frozen,) = book.frozen
    assert (frozen.ids.tolist(), frozen.node, frozen.op) == ([2, 3, 4], "fc", "aten.linear")


def test_a_broadcast_dimension_neither_freezes_nor_unites() -> None:
    book = Book()
    x = Operand((Block((1,), book.fresh(3)),), ("batch", "width"))
    merged = merge(book, [x, Operand((), (None, None))], ["batch", "width"], "mul", "aten.mul")
    assert merged[("width",)].tolist() == [0, 1, 2]
    assert book.frozen == []


def test_a_joint_dimension_keeps_its_outer_part_or_on_request_its_inner_one() -> None:
    for inner, expected in ((False, [[0, 1, 2, 6], [3, 4, 5, 7]]), (True, [[0, 3, 6], [1, 4, 7], [2, 5, 8]])):
        book = Book()
        joint = Operand((Block((0, 1), book.fresh(6).reshape(2, 3)),), ("head", "size"))
        one = Operand((Block((0,), book.fresh(3 if inner else 2)),), ("size" if inner else "head",))
        merge(book, [joint, one], ["head", "size"], "mul", "aten.mul", inner=inner)
        assert groups(book) == expected


def test_query_times_key_leaves_the_head_and_unites_its_inside() -> None:
    book = Book()
    q = Operand((Block((0, 2), book.fresh(4).reshape(2, 2)),), ("head", "s", "d"))
    k = Operand((Block((0, 2), book.fresh(4).reshape(2, 2)),), ("head", "t", "d"))
    merged = merge(book, [q, k], ["head", "s", "t", "d"], "scores", "aten.matmul")
    (block,) = project(book, merged, ["head", "s", "t"])
    assert block.dims == (0,)
    assert groups(book) == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_splitting_a_dimension_makes_a_joint_block_and_merging_undoes_it() -> None:
    block = Block((1,), np.arange(6))
    (split,), lost = reshape((block,), (5, 6), (5, 2, 3))
    assert (split.dims, split.ids.tolist(), lost) == ((1, 2), [[0, 1, 2], [3, 4, 5]], ())
    (merged,), lost = reshape((split,), (5, 2, 3), (5, 6))
    assert (merged.dims, merged.ids.tolist(), lost) == ((1,), [0, 1, 2, 3, 4, 5], ())


def test_flattening_pixels_repeats_each_channel() -> None:
    (block,), lost = reshape((Block((1,), np.arange(2)),), (4, 2, 3), (4, 6))
    assert (block.dims, block.ids.tolist(), lost) == ((1,), [0, 0, 0, 1, 1, 1], ())


def test_where_a_view_puts_two_prunable_dimensions_into_one_the_outer_stays_or_on_request_the_inner() -> None:
    outer, inner = Block((0,), np.arange(2)), Block((1,), np.arange(2, 5))
    (kept,), lost = reshape((outer, inner), (2, 3), (6,))
    assert (kept.ids.tolist(), lost) == ([0, 0, 0, 1, 1, 1], (inner,))
    (kept,), lost = reshape((outer, inner), (2, 3), (6,), inner=True)
    assert (kept.ids.tolist(), lost) == ([2, 3, 4, 2, 3, 4], (outer,))


def test_the_batch_may_be_merged_with_a_width_that_it_leads() -> None:
    block = Block((1,), np.arange(3))
    (merged,), lost = reshape((block,), (SYMBOLIC_BATCH, 3, 5), (3 * SYMBOLIC_BATCH, 5))
    assert (merged.dims, merged.ids.tolist(), lost) == ((0,), [0, 1, 2], ())
    (again,), _ = reshape((merged,), (3 * SYMBOLIC_BATCH, 5), (SYMBOLIC_BATCH, 3, 5))
    assert (again.dims, again.ids.tolist()) == ((1,), [0, 1, 2])


def test_a_width_that_leads_the_batch_is_lost_when_they_merge() -> None:
    block = Block((0,), np.arange(3))
    assert reshape((block,), (3, SYMBOLIC_BATCH), (3 * SYMBOLIC_BATCH,)) == ((), (block,))


def test_a_width_is_followed_out_of_the_batch_where_the_batch_joins_another_dimension() -> None:
    heads = Block((1,), np.arange(4))
    places, batched = (5, 4 * SYMBOLIC_BATCH, 2), (5 * SYMBOLIC_BATCH, 8)
    (kept,), lost = reshape((heads,), places, batched)
    assert (kept.dims, kept.ids.tolist(), lost) == ((1,), [0, 0, 1, 1, 2, 2, 3, 3], ())
    width = Block((2,), np.arange(2))  # whether the batch or the heads come first, this one cannot tell
    assert reshape((width,), places, batched) == ((), (width,))
    assert reshape((heads,), places, (20 * SYMBOLIC_BATCH, 2)) == ((), (heads,))
    assert reshape((heads,), places, (5, 8 * SYMBOLIC_BATCH))[0][0].dims == (1,)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_a_view_there_and_back_gives_the_same_positions(sizes: list[int], data: st.DataObject) -> None:
    """Whatever is carried says of every position what NumPy's own reshape says of it."""
    dim = data.draw(st.integers(0, len(sizes) - 1))
    factors = data.draw(st.permutations([f for size in sizes for f in _factors(size)]))
    atoms = np.arange(sizes[dim])
    blocks = (Block((dim,), atoms),) if sizes[dim] > 1 else ()
    carried, _ = reshape(blocks, sizes, factors)
    shape = [1] * len(sizes)
    shape[dim] = sizes[dim]
    truth = np.broadcast_to(atoms.reshape(shape), sizes).reshape(factors)
    for block in carried:
        shape = [size if axis in block.dims else 1 for axis, size in enumerate(factors)]
        assert np.array_equal(np.broadcast_to(block.ids.reshape(shape), factors), truth)
    assert prod(factors) == prod(sizes)


def _factors(size: int) -> list[int]:
    return {1: [1], 2: [2], 3: [3], 4: [2, 2]}[size]
