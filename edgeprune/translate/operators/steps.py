"""Recurrent operators: LSTM, GRU and RNN, as torch's layers with the gates in torch's order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgeprune.translate.calls import Call, Untranslated, operator

# Gates of the file in torch's order: LSTM has i o f c there and i f c o here, GRU z r h and r z h.
GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
_ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


@operator("LSTM", "GRU", "RNN")
def recurrent(call: Call, x: Tensor, *weights_and_states: Any) -> tuple[Tensor, ...]:
    """x: [steps, N, inputs], then weights as `network` lays them out, then states [directions, N, hidden].

    Values: [steps, directions, N, hidden], and the last states.
    """
    call.only(layout=(0,), input_forget=(0,))
    if call.get("clip") is not None:
        raise Untranslated("its cells are clipped")
    if call.op_type == "GRU" and not call.get("linear_before_reset", 0):
        raise Untranslated("its reset comes before the product")
    directions = 2 if call.get("direction", "forward") == "bidirectional" else 1
    call.only(direction=("forward", "bidirectional"))
    wanted = [name.lower() for name in _ACTIVATIONS[call.op_type]] * directions
    given = [name.lower() for name in call.get("activations") or wanted]
    tanh = given == wanted
    if not tanh and (call.op_type != "RNN" or given != ["relu"] * directions):
        raise Untranslated(f"its activations are {', '.join(given)}")
    count = 4 * directions
    weights, states = list(weights_and_states[:count]), list(weights_and_states[count:])
    zeros = x.new_zeros(directions, x.shape[1], call.attributes["hidden_size"])
    first = zeros if not states or states[0] is None else states[0]
    settings = (weights, True, 1, 0.0, False, directions == 2, False)
    if call.op_type == "LSTM":
        cell = zeros if len(states) < 2 or states[1] is None else states[1]
        found, last, cells = torch.lstm(x, (first, cell), *settings)
        return _by_direction(found, directions), last, cells
    function = torch.gru if call.op_type == "GRU" else torch.rnn_tanh if tanh else torch.rnn_relu
    found, last = function(x, first, *settings)
    return _by_direction(found, directions), last


def _by_direction(found: Tensor, directions: int) -> Tensor:
    """[steps, N, directions * hidden] -> [steps, directions, N, hidden]."""
    if directions == 1:
        return found.unsqueeze(1)
    steps, rows, width = found.shape
    return found.reshape(steps, rows, directions, width // directions).transpose(1, 2)
