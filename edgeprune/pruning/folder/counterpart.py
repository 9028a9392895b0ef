"""Counterpart of a captured graph: the model of transformers that it was captured from, and smaller ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.errors import EdgepruneError
from edgeprune.graph.capture import Captured, capture
from edgeprune.graph.coupling import Coupling, Kept, analyse
from edgeprune.graph.surgery import cut
from edgeprune.pruning.folder.config_layers import Stack, find_stacks, renumbered
from edgeprune.pruning.folder.knobs import Field, Knobs, Shapes, find_knobs
from edgeprune.tasks.pretrained.loading import Logits, hushed

SAME_FUNCTION = (
    1e-4  # of the largest output, on drawn weights: rounding stays far below, another function far above
)
SAME_ANSWER = 1e-5  # the same on the model's own weights
_WRAPPED = "model."  # what `Logits` puts in front of a name


@dataclass(frozen=True)
class Counterpart:
    """A model of transformers with its graph.

    module: the model behind `Logits`. names: of captured tensors, as the model's state has them.
    state: tensors by name, each once; aliases: further names of tied tensors.
    """

    module: Logits
    captured: Captured
    coupling: Coupling
    names: Mapping[str, str]
    state: Mapping[str, torch.Tensor]
    aliases: Mapping[str, str]

    @classmethod
    def of(cls, module: Logits, example: Any) -> Counterpart:
        """Raises `InputError` where the model does not export."""
        captured = capture(module, example, folded=False)
        own = module.model.state_dict(keep_vars=True)
        first: dict[int, str] = {}
        for name, tensor in own.items():
            first.setdefault(id(tensor), name)
        aliases = {name: first[id(tensor)] for name, tensor in own.items() if first[id(tensor)] != name}
        coupling = analyse(captured)
        plain = {name: name.removeprefix(_WRAPPED) for name in coupling.parameters}
        return cls(
            module,
            captured,
            coupling,
            {name: aliases.get(its, its) for name, its in plain.items()},
            {name: own[name].detach() for name in first.values()},
            aliases,
        )

    @property
    def config(self) -> Any:
        return self.module.model.config

    def knobs(self) -> Knobs:
        """Widths that the config can say, each tried on weights that are drawn."""
        drawn = self._drawn()

        def holds(config: Any, units: Mapping[str, int]) -> bool:
            random = np.random.default_rng(0)
            kept = {
                name: tuple(np.sort(random.choice(self.coupling.group(name).units, count, replace=False)))
                for name, count in units.items()
            }
            return drawn.difference(config, drawn.cut(kept)) < SAME_FUNCTION

        return find_knobs(self.config, self._shapes, holds, self.coupling, self.names)

    def stacks(self) -> tuple[Stack, ...]:
        """Layers that the config counts."""
        return tuple(find_stacks(self.config, self._shapes, self.captured, self.coupling, self.names))

    def without(self, stacks: Sequence[Stack], gone: Mapping[Field, Sequence[int]]) -> Counterpart:
        """The counterpart of graphs without some layers, whose tensors have the names of a shorter model."""

        def new(name: str) -> str | None:
            for stack in stacks:
                found = renumbered(name, stack.prefix, gone.get(stack.field, ()))
                if found != name:
                    return found
            return name

        return replace(
            self,
            names={name: its for name, old in self.names.items() if (its := new(old)) is not None},
            state={its: tensor for old, tensor in self.state.items() if (its := new(old)) is not None},
        )

    def proven(self, config: Any, graph: Captured) -> nn.Module:
        """The model of a config with the weights of a cut graph, which answers the example as the graph does.

        Raises `EdgepruneError` where it does not.
        """
        model = self.remade(config, graph)
        apart = _apart(Logits(model).eval(), graph)
        if not apart <= SAME_ANSWER:
            raise EdgepruneError(
                f"The pruned {type(model).__name__} differs from the cut graph by {apart:.3g} of its largest "
                "output.",
                "Write a .pt2 file instead, -o OUT.pt2, and report the model.",
            )
        return model

    def cut(self, kept: Kept) -> Captured:
        """The graph with the kept units and branches."""
        return cut(self.captured, self.coupling, kept)

    def difference(self, config: Any, graph: Captured) -> float:
        """Largest difference between a cut graph and the model of a config with its weights, as a share.

        inf where transformers does not take the weights.
        """
        try:
            module = Logits(self.remade(config, graph)).eval()
        except Exception:  # whatever transformers raises for weights that are not of this config
            return math.inf
        return _apart(module, graph)

    def remade(self, config: Any, graph: Captured) -> nn.Module:
        """The model of a config, with the weights of a cut graph and those that the graph has not read."""
        cut_state = graph.module.state_dict()
        state = dict(self.state)
        state |= {self.names[name]: tensor for name, tensor in cut_state.items() if self._known(name)}
        state |= {alias: state[name] for alias, name in self.aliases.items()}
        with hushed():
            kind: Any = type(self.module.model)
            model: nn.Module = kind.from_pretrained(
                None, config=config, state_dict={name: tensor.clone() for name, tensor in state.items()}
            )
        return model

    def _known(self, name: str) -> bool:
        return self.names.get(name) in self.state

    def _shapes(self, config: Any) -> Shapes:
        with torch.device("meta"):
            state = type(self.module.model)(config).state_dict()
        return {name: tuple(each.shape) for name, each in state.items() if name not in self.aliases}

    def _drawn(self) -> Counterpart:
        """The same with random weights of a size at which every part of the model counts.

        Those of a model that is not trained are so small that attention is flat, and any heads are alike.
        """
        random = torch.Generator().manual_seed(0)
        state = {
            name: _drawn(tensor, random) if tensor.is_floating_point() else tensor
            for name, tensor in self.state.items()
        }
        captured = self.captured.copy()
        with torch.no_grad():
            for name, tensor in captured.module.state_dict().items():
                if self._known(name):
                    tensor.copy_(state[self.names[name]])
        return Counterpart(self.module, captured, self.coupling, self.names, state, self.aliases)


def _apart(module: nn.Module, graph: Captured) -> float:
    """Largest difference of two answers to the example, as a share of the largest output."""
    with torch.no_grad():
        (wanted,) = graph.run(*graph.inputs)
        found = module(*graph.args, **graph.kwargs)
    if found.shape != wanted.shape:
        return math.inf
    return float((found - wanted).abs().max() / wanted.abs().max())


def _drawn(tensor: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    drawn = torch.randn(tensor.shape, generator=random, dtype=tensor.dtype)
    return drawn / tensor.shape[-1] ** 0.5 if tensor.dim() > 1 else 1 + drawn / 5
