"""Average of a network's weights over the steps of a training."""

from __future__ import annotations

import torch

from edgeprune.graph.capture import Captured
from edgeprune.graph.fx import attribute

SHARPNESS = 16.0  # exponent: over half of the weight lies on the last twentieth of the steps


class Average:
    """Exponential average of weights and of BatchNorm's statistics, in a network of its own.

    The horizon grows with the training, as a power function of the step (Karras et al. 2024, "Analyzing and
    Improving the Training Dynamics of Diffusion Models", section 3.1): no length has to be known. Counters
    and other integers are those of the last step.
    network: in evaluation mode; it holds the average.
    """

    def __init__(self, student: Captured) -> None:
        self.network = student.copy()
        self.network.module.eval()
        stored = {id(tensor): name for name, tensor in self.network.module.state_dict(keep_vars=True).items()}
        self._names = tuple(stored.values())  # one name of each tensor

    def update(self, student: Captured, step: int) -> None:
        """Take in the weights after `step`, which counts from 1."""
        share = 1 - (1 - 1 / step) ** (1 + SHARPNESS)
        ours, theirs = [], []
        with torch.no_grad():
            for name in self._names:
                own, other = attribute(self.network.module, name), attribute(student.module, name)
                if own.is_floating_point():
                    ours.append(own)
                    theirs.append(other.detach())
                else:
                    own.copy_(other)
            torch._foreach_lerp_(ours, theirs, share)
