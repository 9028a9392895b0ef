"""Data-parallel recovery training: several processes compute shares of each batch, and one trains.

The leader has the data, the loss, the optimiser and every decision. For each batch it hands out the weights
and shares of the rows; every process computes its share's outputs, the student's and the teacher's; the
leader takes the objective of all of them together, and hands out its gradient by the outputs; every process
goes backward, and the sum of the weights' gradients is what the leader's optimiser sees. With the norms of
`synced_norm` that is training on the whole batch, whatever the loss: followers need neither the task nor its
data. Dropout draws other numbers in each process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import distributed

from edgeprune.errors import InputError
from edgeprune.graph.capture import Captured, flatten, rebuilt
from edgeprune.recover.objective import Objective, Run
from edgeprune.recover.place import Place
from edgeprune.recover.synced_norm import SyncedNorms

Tensors = tuple[torch.Tensor, ...]
FORWARD, BACKWARD, END = "forward", "backward", "end"  # kinds of messages
LEADER = 0


@dataclass(frozen=True)
class SharedObjective(Objective):
    """Objective of the leader, whose forward passes are shared with the followers of the default group."""

    parameters: Sequence[torch.nn.Parameter] = ()

    @property
    def sees_streams(self) -> bool:
        """False: the processes exchange outputs alone."""
        return False

    def over(self, parameters: Sequence[torch.nn.Parameter]) -> SharedObjective:
        """The objective of a training that moves these parameters, which every process has in this order."""
        return replace(self, parameters=parameters)

    def outputs(self, run: Run, inputs: Tensors) -> tuple[Any, Tensors]:
        """The teacher's answer and the student's outputs, for all rows.

        Of fewer rows than processes the leader computes all itself.
        """
        world = distributed.get_world_size()
        if len(inputs[0]) < world:
            return super().outputs(run, inputs)
        shares = list(zip(*(tensor.tensor_split(world) for tensor in inputs), strict=True))
        parameters = self.parameters
        hand_out(FORWARD, shares)
        distributed.broadcast(_flat(parameters), LEADER)
        with torch.no_grad():
            answer = self.mixed(self.teacher.answer)(*shares[LEADER])
        wanted = flatten(answer)
        found = _Shared.apply(self.mixed(run), shares, wanted, parameters, *parameters)  # type: ignore[no-untyped-call]
        return rebuilt(answer, found[: len(wanted)]), tuple(found[len(wanted) :])


def check_rows(outputs: Tensors, rows: int) -> None:
    """Refuse outputs that are not one for each row: those of shares cannot be put together.

    Raises `InputError`.
    """
    for at, output in enumerate(outputs):
        if not output.dim() or output.shape[0] != rows:
            raise InputError(
                f"Output {at} of the model has the shape {list(output.shape)} for {rows} rows: several "
                "processes cannot put shares of it together.",
                "Train with --processes 1, or return outputs with the batch first.",
            )


class _Shared(torch.autograd.Function):
    """Outputs of all shares, the teacher's and the student's, as a function of the weights."""

    @staticmethod
    def forward(
        ctx: Any,
        run: Callable[..., Tensors],
        shares: Sequence[Tensors],
        wanted: Tensors,
        parameters: Sequence[torch.Tensor],
        *differentiated: torch.Tensor,
    ) -> Tensors:
        """`differentiated` are the parameters once more, as autograd asks for them."""
        with torch.enable_grad(), SyncedNorms():
            ctx.given = run(*shares[LEADER])
        ctx.parameters, ctx.rows, ctx.wanted = parameters, [len(share[0]) for share in shares], len(wanted)
        gathered: list[Any] = [None] * len(shares)
        distributed.gather_object(_sent(wanted + ctx.given), gathered, LEADER)
        device = shares[LEADER][0].device
        whole = [torch.cat([part.to(device) for part in parts]) for parts in zip(*gathered, strict=True)]
        given = zip(whole[ctx.wanted :], ctx.given, strict=True)
        ctx.mark_non_differentiable(
            *whole[: ctx.wanted], *(all_rows for all_rows, own in given if not own.requires_grad)
        )
        return tuple(whole)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradient by the outputs goes out, and that by the weights comes back from all processes."""
        own = zip(gradients[ctx.wanted :], ctx.given, strict=True)
        parts = [torch.split(gradient, ctx.rows) for gradient, given in own if given.requires_grad]
        shares = list(zip(*parts, strict=True))
        hand_out(BACKWARD, shares)
        found = weight_gradients(ctx.given, shares[LEADER], ctx.parameters)
        return (None, None, None, None, *found)


def weight_gradients(
    given: Tensors, gradients: Tensors, parameters: Sequence[torch.Tensor]
) -> list[torch.Tensor | None]:
    """Gradients of the parameters, summed over all processes; None for one that no output depends on.

    given: outputs of the own share; gradients: by those of them that have one.
    """
    outputs = [output for output in given if output.requires_grad]
    own = torch.autograd.grad(outputs, parameters, gradients, allow_unused=True)
    used = [gradient for gradient in own if gradient is not None]
    total = _flat(used)
    distributed.all_reduce(total)
    parts = iter(torch.split(total, [gradient.numel() for gradient in used]))
    return [None if each is None else next(parts).reshape(each.shape) for each in own]


def hand_out(kind: str, shares: Sequence[Tensors] = ()) -> None:
    """Send each follower its share; called by the leader."""
    messages: list[Any] = [(kind, ())] * distributed.get_world_size()
    for rank, share in enumerate(shares):
        if rank != LEADER:
            messages[rank] = (kind, _sent(share))
    distributed.scatter_object_list([None], messages, LEADER)


def follow(student: Captured, teacher: Captured, place: Place, parameters: Sequence[torch.Tensor]) -> None:
    """Compute shares as a follower, until the leader's training ends. parameters: that it moves."""
    given: Tensors = ()
    while True:
        received: list[Any] = [None]
        distributed.scatter_object_list(received, None, LEADER)
        kind, tensors = received[0]
        if kind == END:
            return
        tensors = place.tensors(tensors)
        if kind == BACKWARD:
            weight_gradients(given, tensors, parameters)
            continue
        _read_weights(parameters)
        with torch.no_grad():
            wanted = place.mixed(teacher.run)(*tensors)
        with SyncedNorms():
            given = place.mixed(student.run)(*tensors)
        distributed.gather_object(_sent(wanted + given), None, LEADER)


def _read_weights(parameters: Sequence[torch.Tensor]) -> None:
    flat = torch.empty_like(_flat(parameters))
    distributed.broadcast(flat, LEADER)
    parts = torch.split(flat, [parameter.numel() for parameter in parameters])
    with torch.no_grad():
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.copy_(part.reshape(parameter.shape))


def _flat(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _sent(tensors: Tensors) -> Tensors:
    return tuple(tensor.detach().cpu() for tensor in tensors)


__all__ = ["END", "LEADER", "SharedObjective", "check_rows", "follow", "hand_out"]
