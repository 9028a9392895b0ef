"""Calibration of a range for every activation, with neural-compressor's static PT2E path.

neural-compressor observes convolution inputs only, and runtimes fuse Q/DQ pairs at other places as well (see
`dialects`). So neural-compressor's observers are placed behind every float activation here, and emission
picks the ranges that the dialect needs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgeprune.errors import EdgepruneError, InputError, MissingExtraError
from edgeprune.graph.capture import Captured
from edgeprune.graph.outputs import in_module, is_finite
from edgeprune.quantize.histogram import Counts, percentile, squared_error
from edgeprune.quantize.ranges import Ranges
from edgeprune.quiet import quiet

_LOGGERS = ("neural_compressor", "torchao", "torch.utils._pytree")  # they report on their own import


@dataclass(frozen=True)
class Calibrator:
    """Choice of an activation's range.

    algorithm: neural-compressor's name of the observer.
    choose: function of the histogram that "kl" fills, (counts, low, high) -> (low, high); None for
        neural-compressor's own choice.
    """

    algorithm: str
    choose: Callable[[Counts, float, float], tuple[float, float]] | None = None


TABLE: Mapping[str, Calibrator] = {
    "minmax": Calibrator("minmax"),  # the mean of the batches' extremes
    "kl": Calibrator("kl"),  # the range that loses least of a histogram, outliers clipped
    "percentile": Calibrator("kl", percentile),
    "mse": Calibrator("kl", squared_error),
}


def calibrate(captured: Captured, batches: Iterable[tuple[torch.Tensor, ...]], calibrator: str) -> Ranges:
    """Run `batches` through the captured graph and choose a range for every float activation.

    batches: flat inputs in placeholder order, any batch size. BatchNorm is folded first, as the exporter
    folds it. An activation that is infinite or NaN where the model's output is not (an attention mask) gets
    no range and stays float. Raises `InputError` for an unknown calibrator, for no data, for shapes that
    are not the model's, and for NaN or infinity, naming the first layer that shows it.
    """
    if calibrator not in TABLE:
        raise InputError(f'There is no calibrator "{calibrator}".', f"Use one of: {', '.join(TABLE)}.")
    prepared = _prepare(captured, TABLE[calibrator].algorithm)
    observers = _wrap_observers(prepared, _folded(captured, prepared), TABLE[calibrator])
    samples = 0
    with torch.no_grad():
        for index, batch in enumerate(batches):
            _check_batch(captured, index, batch)
            outputs = captured.with_module(prepared).run(*batch)
            for observer in observers:
                observer.end_batch()
            if not all(is_finite(tensor) for tensor in outputs):
                first = next((o.node for o in observers if o.broken), "the output")
                raise InputError(
                    f"Calibration batch {index} makes the model compute NaN or infinity, first in {first}.",
                    "Check the model's weights and that this batch is preprocessed like the training data.",
                )
            samples += int(batch[0].shape[0])
    if samples == 0:
        raise InputError("There is no calibration data.", "Give at least one batch; 100 to 500 samples do.")
    return Ranges({o.name: o.bounds() for o in observers if not o.broken}, calibrator, samples)


class _Observer(torch.nn.Module):
    """neural-compressor's observer of one activation, without batches that contain NaN or infinity."""

    def __init__(self, inner: Any, name: str, node: str, calibrator: Calibrator) -> None:
        super().__init__()
        self.inner, self.name, self.node, self.calibrator = inner, name, node, calibrator
        self.broken = False
        self.batches = 0
        self._extremes: list[torch.Tensor] = []  # of the rows of a batch, where the observer averages batches

    def forward(self, activation: torch.Tensor) -> torch.Tensor:
        if not is_finite(activation):
            self.broken = True
        elif not self.broken and activation.numel():
            if hasattr(self.inner, "averaging_constant"):
                self._extremes.append(torch.stack(torch.aminmax(activation)))
            else:
                self.inner(activation)
        return activation

    def end_batch(self) -> None:
        """Tell an observer that averages over batches the extremes of one, in however many calls it came."""
        if self._extremes and not self.broken:
            self.batches += 1
            # Its constant 0.01 would leave the first batch's extremes nearly unchanged.
            self.inner.averaging_constant = 1.0 / self.batches
            self.inner(torch.stack(self._extremes))
        self._extremes.clear()

    def bounds(self) -> tuple[float, float]:
        """Chosen range (low, high), possibly by way of a scale and zero point; zero is inside."""
        if self.calibrator.choose is not None:
            counts = self.inner.histogram.double().numpy()
            return self.calibrator.choose(counts, float(self.inner.min_val), float(self.inner.max_val))
        scale, zero_point = (float(value) for value in self.inner.calculate_qparams())
        low, high = self.inner.quant_min, self.inner.quant_max
        return (low - zero_point) * scale, (high - zero_point) * scale


def _prepare(captured: Captured, algorithm: str) -> GraphModule:
    """Copy of the graph, BatchNorm folded, with neural-compressor's observers in it."""
    with quiet(*_LOGGERS):
        try:
            from neural_compressor.torch.algorithms.pt2e_quant.core import W8A8PT2EQuantizer
            from neural_compressor.torch.algorithms.pt2e_quant.utility import create_quant_spec_from_config
            from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, Quantizer
        except ImportError as error:
            raise MissingExtraError(
                f"Calibration needs neural-compressor: {error}", "pip install 'edgeprune[fit]'"
            ) from error

        class EveryActivation(Quantizer):  # type: ignore[misc]
            def annotate(self, model: GraphModule) -> GraphModule:
                spec = create_quant_spec_from_config("uint8", False, "per_tensor", algorithm)
                for node in filter(_is_activation, model.graph.nodes):
                    node.meta["quantization_annotation"] = QuantizationAnnotation(
                        output_qspec=spec, _annotated=True
                    )
                return model

            def validate(self, model: GraphModule) -> None:
                """Accept every model: any float activation may be observed."""

        class EveryActivationCalibrator(W8A8PT2EQuantizer):  # type: ignore[misc]
            @staticmethod
            def update_quantizer_based_on_quant_config(quant_config: Any = None) -> Quantizer:
                return EveryActivation()

        module = copy.deepcopy(captured.module)
        setattr(module, "_exported", True)  # noqa: B010  neural-compressor asks for what its export() sets
        try:
            return EveryActivationCalibrator().prepare(module)  # type: ignore[no-any-return]
        except Exception as error:
            raise EdgepruneError(
                f"neural-compressor cannot prepare this model for calibration: {error}",
                "Deploy it in float32, and report the model.",
            ) from error


def _wrap_observers(prepared: GraphModule, folded: dict[str, str], calibrator: Calibrator) -> list[_Observer]:
    """Wrap every observer of the graph in an `_Observer`; returned in execution order."""
    found = []
    for node in prepared.graph.nodes:
        if node.op == "call_module" and isinstance(node.args[0], Node):
            source = node.args[0]
            name = folded.get(source.name, source.name)
            observer = _Observer(
                prepared.get_submodule(node.target), name, in_module(source, name), calibrator
            )
            setattr(prepared, node.target, observer)
            found.append(observer)
    return found


def _folded(captured: Captured, prepared: GraphModule) -> dict[str, str]:
    """Names of folded BatchNorms, by the convolution that now computes the BatchNorm's value."""
    left = {node.name for node in prepared.graph.nodes}
    return {
        node.args[0].name: node.name
        for node in captured.module.graph.nodes
        if "batch_norm" in str(node.target) and node.op == "call_function" and node.name not in left
    }


def _is_activation(node: Node) -> bool:
    value = node.meta.get("val")
    return (
        node.op in ("placeholder", "call_function")
        and isinstance(value, torch.Tensor)
        and value.dtype == torch.float32
        and value.dim() > 0
    )


def _check_batch(captured: Captured, index: int, batch: tuple[torch.Tensor, ...]) -> None:
    expected = captured.inputs
    if len(batch) != len(expected):
        raise InputError(
            f"Calibration batch {index} has {len(batch)} tensors; the model takes {len(expected)}.",
            f"Give one tensor for each of: {', '.join(captured.input_names)}.",
        )
    for place, (name, tensor, example) in enumerate(zip(captured.input_names, batch, expected, strict=True)):
        if not captured.takes(place, tensor) or tensor.dtype != example.dtype:
            raise InputError(
                f"Calibration batch {index} gives input {name} as {tensor.dtype} {list(tensor.shape)}; the "
                f"model takes {example.dtype} {['batch', *example.shape[1:]]}.",
                "Preprocess the calibration data like the example input.",
            )
        if not is_finite(tensor):
            raise InputError(
                f"Calibration batch {index} has NaN or infinity in input {name}.",
                "Remove those samples: a range cannot be chosen from them.",
            )
