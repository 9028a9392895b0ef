"""Sequential reconstruction: least-squares weights from what really arrives, layer by layer.

A reconstruction of one layer alone would solve as if all layers before it were still dense. Here the dense
and the pruned network run side by side through the graph. At every linear layer and convolution, with x what
the *pruned* network feeds it and y what the *dense* one makes of its own inputs, the pruned layer's weights
become

    W' = (sum of y x^T + damping W) (sum of x x^T + damping)^-1

and both go on, so that each layer makes up for what those before it lost (asymmetric reconstruction: Zhang et
al. 2016, He et al. 2017). Three things follow from having both networks at hand:

- A layer whose output is added to a stream also aims at the error that is in the stream already.
- A convolution without a bias has one in the mean of the BatchNorm behind it.
- The damping of a layer, which pulls it towards the weights it has, is the one that does best on rows
  that it was not solved for, and a layer that no damping betters is left as it is.

Calibration rows alone, no label, no gradient, one pass through both networks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch.fx import Interpreter, Node
from torch.fx.node import map_arg

from edgeprune.graph.capture import Captured
from edgeprune.graph.coupling import Coupling, Kept
from edgeprune.graph.fx import argument, attribute, op_name, tensor_uses
from edgeprune.graph.length import joined
from edgeprune.graph.memory import writes
from edgeprune.pruning.damped_pairs import DampedPairs
from edgeprune.pruning.solvable import LINEAR, Layer, layers_of, windows

NETWORK_BYTES = 2**31  # bytes of both networks' values that rows in work may hold
SOLVING_WORK = 10**12  # multiply-accumulates of one network over all rows
ROWS_AT_ONCE = 32
MOST_ROWS_SOLVED = 65536  # rows x that a layer is solved from
SOLVED_PRODUCTS = 4 * 10**11  # rows times squared features: fewer rows for a layer of many features
PATCH_BYTES = 2**28  # bytes of the patches of one batch
_ADDITIONS = ("aten.add", "aten.add_")
_IDENTITIES = ("aten.dropout", "aten.dropout_", "aten.clone", "aten.contiguous")  # of an evaluated model
_NO_SCALE = 1e-2  # of a BatchNorm's mean square scale: far smaller ones carry no error back


def refit(
    pruned: Captured,
    dense: Captured,
    coupling: Coupling,
    kept: Kept,
    rows: Sequence[tuple[torch.Tensor, ...]],
    products: int = SOLVED_PRODUCTS,
    enough: int = MOST_ROWS_SOLVED,
) -> int:
    """Solve for the weights of `pruned` in place, in the order of the graph; the number of layers changed.

    pruned: `cut(dense, coupling, kept)`. rows: calibration inputs in placeholder order, in batches
    (`rows_of`). products: rows times squared features that a layer is solved from at most, or twice as many
    rows as features where that is more, but for `enough` rows.
    """
    queries = [query for batch in rows for query in dense.queries(batch)]
    with torch.no_grad():
        return _SideBySide(pruned, dense, coupling, kept, queries, products, enough).run()


def solving_rows(batches: Iterable[tuple[torch.Tensor, ...]], macs: int) -> list[tuple[torch.Tensor, ...]]:
    """Calibration rows to solve weights from, fewer where one takes much work. macs: of one row."""
    return rows_of(batches, SOLVING_WORK // max(macs, 1))


def rows_of(
    batches: Iterable[tuple[torch.Tensor, ...]], most: int, at_once: int = ROWS_AT_ONCE
) -> list[tuple[torch.Tensor, ...]]:
    """At most `most` rows, one at least, spread evenly over the data, in batches of `at_once`.

    Where lengths vary, each has its share, one row at least, in batches of its own.
    """
    groups = [batch for batch in joined(batches) if len(batch[0])]
    rows = sum(len(columns[0]) for columns in groups)
    found = []
    for columns in groups:
        own = len(columns[0])
        count = min(own, max(most * own // rows, 1))
        places = torch.from_numpy(np.linspace(0, own - 1, count).round().astype(np.int64))
        found += [tuple(column[part] for column in columns) for part in torch.split(places, at_once)]
    return found


class _Steps(Interpreter):
    """Interpreter of one batch that goes on node by node, and forgets what no later node reads."""

    def __init__(self, captured: Captured, inputs: tuple[torch.Tensor, ...]) -> None:
        super().__init__(captured.module)
        self.args_iter = iter(inputs)

    def step(self, node: Node, known: Any = None) -> None:
        self.env[node] = self.run_node(node) if known is None else known
        for done in self.user_to_last_uses.get(node, ()):
            del self.env[done]

    def held(self) -> int:
        """Bytes of the values that later nodes read."""
        tensors = [value for node, value in self.env.items() if node.op != "get_attr"]
        storages = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for value in tensors
            for tensor in (value if isinstance(value, tuple | list) else (value,))
            if isinstance(tensor, torch.Tensor)
        }
        return sum(storages.values())


@dataclass(frozen=True)
class _Destination:
    """What a layer's output becomes: scale * output + the other operand, [channels] and a node of each net.

    mean: name of the BatchNorm's running mean that takes the layer's constant, where it has no bias.
    """

    scale: torch.Tensor | None
    stream: tuple[Node, Node] | None
    mean: str | None


class _SideBySide:
    """Both networks on the way through their graphs."""

    def __init__(
        self,
        pruned: Captured,
        dense: Captured,
        coupling: Coupling,
        kept: Kept,
        rows: Sequence[tuple[torch.Tensor, ...]],
        products: int,
        enough: int,
    ) -> None:
        self._pruned, self._dense, self._coupling = pruned, dense, coupling
        self._removed = coupling.removed(kept)
        self._layers = layers_of(pruned)
        self._uses = tensor_uses(pruned.module)
        self._by_name = {node.name: node for node in dense.module.graph.nodes}
        self._waiting = list(rows)
        self._products, self._enough = products, enough
        self._pairs: list[tuple[_Steps, _Steps]] = []
        self._inside = 0  # rows
        self._generator = torch.Generator().manual_seed(0)
        self._writing = any(writes(node) for node in dense.module.graph.nodes)
        self._same: set[Node] = set()  # of the pruned graph: the value is that of the dense one
        self._changed = 0

    def run(self) -> int:
        order = self._order()
        need = self._need(order)
        for at, (node, own) in enumerate(order):
            self._join(order[:at], need[at])
            if node is not None:
                for dense, _ in self._pairs:
                    dense.step(node)
            if own is not None:
                solved = (
                    node is not None
                    and own.name in self._layers
                    and self._solve(node, self._layers[own.name])
                )
                self._changed += solved
                if node is not None and not solved and self._alike(node, own):
                    self._same.add(own)
                for dense, pruned in self._pairs:
                    self._step(own, node, dense, pruned)
        return self._changed

    def _step(self, own: Node, node: Node | None, dense: _Steps, pruned: _Steps) -> None:
        """Take a node of the pruned graph; what cannot differ is taken over from the dense one."""
        shared = own in self._same and own.op == "call_function" and not self._writing
        if shared and node in dense.env:
            pruned.step(own, dense.env[node])
        else:
            pruned.step(own)

    def _alike(self, node: Node, own: Node) -> bool:
        """Whether a node of the pruned graph has the value that its twin `node` has in the dense one."""
        if own.op == "get_attr":
            one, other = (attribute(net.module, str(own.target)) for net in (self._dense, self._pruned))
            return one.shape == other.shape and torch.equal(one, other)
        return own.op == "placeholder" or (
            self._same.issuperset(own.all_input_nodes) and _written(own) == _written(node)
        )

    def _order(self) -> list[tuple[Node | None, Node | None]]:
        """Nodes of the dense graph, each beside its twin; nodes of one graph alone by themselves."""
        own = [node for node in self._pruned.module.graph.nodes if node.op != "output"]
        names = {node.name for node in own}
        order: list[tuple[Node | None, Node | None]] = []
        for node in self._dense.module.graph.nodes:
            if node.op == "output":
                continue
            if node.name not in names:
                order.append((node, None))
                continue
            while own[0].name != node.name:
                order.append((None, own.pop(0)))
            order.append((node, own.pop(0)))
        return order + [(None, node) for node in own]

    def _need(self, order: Sequence[tuple[Node | None, Node | None]]) -> list[float]:
        """Bytes that a row holds at most from each place on, in both networks."""
        probe = _Steps(self._dense, self._waiting[0])
        held = []
        for node, _ in order:
            if node is not None:
                probe.step(node)
            held.append(2 * probe.held() / len(self._waiting[0][0]))
        return list(accumulate(reversed(held), max))[::-1]

    def _join(self, before: Sequence[tuple[Node | None, Node | None]], need: float) -> None:
        """Bring in rows that there is room for from here on; at least one batch is always in."""
        while self._waiting:
            batch = self._waiting[0]
            if self._pairs and (self._inside + len(batch[0])) * need > NETWORK_BYTES:
                return
            self._waiting.pop(0)
            pair = _Steps(self._dense, batch), _Steps(self._pruned, batch)
            for node, own in before:
                if node is not None:
                    pair[0].step(node)
                if own is not None:
                    self._step(own, node, *pair)
            self._pairs.append(pair)
            self._inside += len(batch[0])

    # One layer --------------------------------------------------------------------------------------

    def _solve(self, node: Node, layer: Layer) -> bool:
        """Set a layer's weights; False when they stay. node: of the dense graph, which has its output."""
        target = self._target(node, layer)
        if target.stream is None and argument(layer.node, 0, "input") in self._same:
            return False
        module = self._pruned.module
        weight = attribute(module, layer.weight)
        before = weight.detach().double().reshape(layer.groups, -1, weight[0].numel())
        constant = layer.bias is not None or target.mean is not None
        if constant:
            bias = attribute(module, layer.bias).double() if layer.bias else before.new_zeros(len(weight))
            before = torch.cat([before, bias.reshape(layer.groups, -1, 1)], dim=2)
        moments = DampedPairs(before)
        for pair in self._pairs:
            x, y = self._sampled(node, layer, pair, target)
            if constant:
                x = torch.cat([x, x.new_ones(*x.shape[:2], 1)], dim=2)
            moments.add(x, y)
        solved = moments.solved()
        if solved is None:
            return False
        if constant:
            shift = solved[:, :, -1].reshape(-1)
            if layer.bias is not None:
                attribute(module, layer.bias).copy_(shift)
            elif target.mean is not None:
                attribute(module, target.mean).sub_(shift)
            solved = solved[:, :, :-1]
        weight.copy_(solved.reshape(weight.shape))
        return True

    def _target(self, node: Node, layer: Layer) -> _Destination:
        """Where a layer's output goes: through BatchNorms and nothing else to an addition, or not."""
        module = self._pruned.module
        at, scale, mean = layer.node, None, None
        while len(at.users) == 1:
            after = next(iter(at.users))
            name = op_name(after)
            if name == "aten.batch_norm" and argument(after, 0, "input") is at:
                found = _scale(module, after)
                if found is None:
                    break
                own = str(after.args[3].target)  # type: ignore[union-attr]
                if at is layer.node and layer.bias is None and self._uses[id(attribute(module, own))] == 1:
                    mean = own
                scale = found if scale is None else scale * found
            elif name in _ADDITIONS and not after.kwargs and len(after.args) == 2:
                other = after.args[1] if after.args[0] is at else after.args[0]
                if isinstance(other, Node) and (twin := self._stream(node, other)) is not None:
                    return _Destination(scale, (twin, other), mean)
                break
            elif name not in _IDENTITIES:
                break
            at = after
        return _Destination(scale, None, mean)

    def _stream(self, node: Node, other: Node) -> Node | None:
        """The dense twin of what a layer's output is added to, where both are there and they differ."""
        dense, pruned = self._pairs[0]
        twin = self._by_name.get(other.name)
        if twin not in dense.env or other not in pruned.env or other in self._same:
            return None
        return twin if dense.env[twin].shape == dense.env[node].shape else None

    def _sampled(
        self, node: Node, layer: Layer, pair: tuple[_Steps, _Steps], target: _Destination
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs [n, groups, features] of the pruned layer, and outputs [n, groups, rows] to come to."""
        dense, pruned = pair
        weight = attribute(self._pruned.module, layer.weight)
        x, y = pruned.env[argument(layer.node, 0, "input")], dense.env[node]
        features, share = weight[0].numel(), len(x) / self._inside
        least = min(2 * features, self._enough)
        most = min(MOST_ROWS_SOLVED, max(least, self._products // features**2))
        most = min(math.ceil(most * share), PATCH_BYTES // (4 * layer.groups * features) + 1)
        rows = self._rows(layer.weight, y.shape[_channels(layer)])
        if op_name(layer.node) == LINEAR:
            places: tuple[Any, ...] = (self._some(x.shape[:-1].numel(), most),)
            x = x.reshape(-1, x.shape[-1])[places]
        else:
            patches = windows(layer.node, x, weight.shape[2:])
            where = (len(x), *patches.shape[2 : 2 + y.dim() - 2])
            batch, *positions = torch.unravel_index(self._some(math.prod(where), most), where)
            places = (batch, slice(None), *positions)
            x = patches[places]

        def at(value: torch.Tensor) -> torch.Tensor:
            return (value.reshape(-1, value.shape[-1]) if len(places) == 1 else value)[places]

        wanted = at(y)[:, rows].double()
        if target.stream is not None:
            twin, own = target.stream
            missing = at(dense.env[twin])[:, rows].double() - at(pruned.env[own]).double()
            if target.scale is not None:
                squares = target.scale.square()
                missing = missing * (target.scale / (squares + _NO_SCALE * squares.mean() + 1e-30))
            wanted = wanted + missing
        return x.reshape(len(x), layer.groups, -1).float(), wanted.reshape(len(x), layer.groups, -1)

    def _some(self, count: int, most: int) -> torch.Tensor:
        return torch.randperm(count, generator=self._generator)[:most]

    def _rows(self, weight: str, count: int) -> torch.Tensor:
        """Output rows of a dense weight that the pruned one has."""
        use = self._coupling.parameters.get(weight)
        rows = torch.arange(count)
        if use is None or use.atoms[0] is None:
            return rows
        return rows[torch.from_numpy(~self._removed[self._coupling.classes[use.atoms[0]]])]


def _written(node: Node) -> object:
    """Arguments of a node, other nodes by their names: a cut may have changed sizes among them."""
    return map_arg((node.args, node.kwargs), lambda value: value.name)


def _channels(layer: Layer) -> int:
    return -1 if op_name(layer.node) == LINEAR else 1


def _scale(module: torch.nn.Module, norm: Node) -> torch.Tensor | None:
    """What an evaluated BatchNorm multiplies each channel by; None where it has no running statistics."""
    weight, variance = argument(norm, 1, "weight"), argument(norm, 4, "running_var")
    if variance is None or any(each is not None and each.op != "get_attr" for each in (weight, variance)):
        return None
    found = attribute(module, str(variance.target)).double() + float(argument(norm, 7, "eps", 1e-5))
    scale: torch.Tensor = found.rsqrt()
    return scale if weight is None else scale * attribute(module, str(weight.target)).double()
