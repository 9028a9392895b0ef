"""Artefact builder: a candidate is exported, calibrated, quantised and written for its runtime."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from edgeprune.export import to_onnx
from edgeprune.graph import onnxfile
from edgeprune.graph.capture import Captured
from edgeprune.graph.pointwise import convolve_products
from edgeprune.ir import HALF_TOLERANCE, difference, write_ir
from edgeprune.meaning.yardstick import Yardstick
from edgeprune.quantize.calibrate import calibrate
from edgeprune.quantize.dialects import Dialect
from edgeprune.quantize.dynamic import DYNAMIC, quantise_dynamic
from edgeprune.quantize.emit import Quantised, quantise
from edgeprune.quantize.half import halve
from edgeprune.quantize.plan import Graph
from edgeprune.quantize.ranges import Ranges
from edgeprune.quantize.rescale.equalise import equalise
from edgeprune.quantize.rescale.smooth import smooth
from edgeprune.quantize.simulate.bias_correction import correct_means
from edgeprune.quantize.simulate.damage import damage, weight_damage
from edgeprune.quantize.simulate.written import proven_integers
from edgeprune.quantize.tensorrt.engines import write_for_engine
from edgeprune.quantize.tensorrt.refusals import check_types
from edgeprune.quantize.weight_only import TABLE as WEIGHT_FORMS
from edgeprune.quantize.weight_only import compress_weights
from edgeprune.records.trial import Candidate
from edgeprune.runtimes import find
from edgeprune.search.agreement import LARGEST_ERROR

ARTEFACT_STEM = "model"  # the suffix is the runtime's

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Built:
    """The artefact of a candidate; layers are named by their weight's module.

    reference: the outputs for the probe as torch computes them, with the artefact's integers; empty for what
        was built before and is taken up again.
    engine_layers: those that went back to float because an engine ran them in float.
    """

    artefact: Path
    layers_int8: tuple[str, ...]
    layers_float: tuple[str, ...]
    reference: Sequence[NDArray[Any]] = ()
    engine_layers: tuple[str, ...] = ()


class Builder:
    """Writes artefacts for one runtime.

    yardstick: called for how far outputs are from the original's, when that is asked first.
    lost_in: where engines are built of artefacts: builds one, and names the layers that are INT8 in the
        file alone. They go back to float, so what is INT8 in an artefact is INT8 in its engine.
    keep_onnx: leave the ONNX file beside an artefact in another format.
    """

    def __init__(
        self,
        dense: Captured,
        calibration: Sequence[tuple[torch.Tensor, ...]],
        dialect: Dialect,
        runtime: str,
        *,
        yardstick: Callable[[], Yardstick],
        lost_in: Callable[[Path], Iterable[str]] | None = None,
        keep_onnx: bool = False,
    ) -> None:
        self.dense, self.calibration, self.dialect = dense, calibration, dialect
        self.artefact = f"{ARTEFACT_STEM}{find(runtime).suffix}"
        self.yardstick = yardstick
        self.lost_in = lost_in
        self.keep_onnx = keep_onnx
        self._dense_ranges: dict[str, Ranges] = {}  # by calibrator: forms that share one, share its ranges

    def build(
        self,
        candidate: Candidate,
        pruned: Captured,
        folder: Path,
        probe: tuple[torch.Tensor, ...],
        batch: int | None = None,
        more: Sequence[tuple[torch.Tensor, ...]] = (),
    ) -> Built:
        """Write the artefact of a pruned graph, in the candidate's precision and the runtime's format.

        probe: flat inputs on which the integers are proven: `Built.reference` are the outputs for them, and
            behind these for `more`, which are of other lengths.
        batch: rows of a query, where its range depends on them; None when all are one.
        Raises `InputError` naming the node that TensorRT would refuse, where it builds the engine.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if candidate.equalised and not candidate.qat:
            pruned = self.equalised(pruned)
        exported = self.exported(pruned)
        if self.lost_in is not None:
            check_types(exported, self.artefact)
        without = onnxfile.layers_without_integers(exported)
        if candidate.precision == "float32":
            layers = (*onnxfile.layers(exported).values(), *without)
            model = self._halved(pruned, exported) if self.dialect.half else exported
            with torch.no_grad():
                exact = [[each.numpy(force=True) for each in pruned.run(*rows)] for rows in (probe, *more)]
            reference = [np.concatenate(column) for column in zip(*exact, strict=True)]
            return Built(self._write(model, folder, exported), (), layers, reference)
        made, lost = self._settled(candidate, pruned, exported, folder / self.artefact)
        rows = batch if candidate.calibrator == DYNAMIC else None
        found = [proven_integers(pruned, made.model, each, rows) for each in (probe, *more)]
        proven = [np.concatenate(column) for column in zip(*found, strict=True)]
        artefact = self._write(made.model, folder, exported, convolved=candidate.convolved)
        return Built(artefact, made.layers_int8, (*made.layers_float, *without), proven, lost)

    def exported(self, captured: Captured) -> onnx.ModelProto:
        """The float ONNX model; that of the dense network, which most variants share, is exported once."""
        return self._dense_onnx if captured is self.dense else to_onnx(captured)

    @cached_property
    def _dense_onnx(self) -> onnx.ModelProto:
        return to_onnx(self.dense)

    def _settled(
        self, candidate: Candidate, pruned: Captured, exported: onnx.ModelProto, path: Path
    ) -> tuple[Quantised, tuple[str, ...]]:
        """The model as its engine runs it, and the layers that are in float for the engine's sake.

        path: the artefact's own. Engines are built of it: a device that built one has the file already.
        """
        if self.lost_in is None:
            return self.quantised(candidate, pruned, exported), ()

        def quantised(lost: tuple[str, ...]) -> Quantised:
            known = tuple(sorted({*candidate.engine_layers, *lost}))
            return self.quantised(replace(candidate, engine_layers=known), pruned, exported)

        return write_for_engine(quantised, path, self.lost_in)

    def quantised(self, candidate: Candidate, pruned: Captured, exported: onnx.ModelProto) -> Quantised:
        """Quantised copy of an exported model, in the candidate's precision."""
        narrow, left = candidate.reduce_range, candidate.in_float
        if candidate.precision in WEIGHT_FORMS:
            return compress_weights(exported, candidate.precision, float_layers=left)
        if candidate.calibrator == DYNAMIC:
            return quantise_dynamic(exported, reduce_range=narrow, float_layers=left)
        ranges = self._ranges(candidate, pruned)
        if not candidate.qat:  # training has moved every bias to where INT8 needs it
            ranges = correct_means(
                pruned, ranges, self.dialect, self.calibration, reduce_range=narrow, float_layers=left
            )
        return quantise(exported, ranges, self.dialect, reduce_range=narrow, float_layers=left)

    def emitter(self, candidate: Candidate) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
        """A way from exported models of any widths to models in the candidate's precision.

        For timing only: ranges are those of the dense network.
        """
        if candidate.precision == "float32":
            return lambda exported: exported
        left = candidate.in_float
        if candidate.calibrator == DYNAMIC:
            return lambda exported: quantise_dynamic(exported, float_layers=left).model
        ranges = self._ranges(candidate, self.dense)

        def emit(exported: onnx.ModelProto) -> onnx.ModelProto:
            model = quantise(exported, ranges, self.dialect, float_layers=left).model
            if candidate.convolved:
                convolve_products(model)
            return model

        return emit

    def draft(self, candidate: Candidate, exported: onnx.ModelProto, folder: Path) -> Path:
        """Write an artefact, for timing only, of an exported model that has the candidate's shapes."""
        return self._write(self.emitter(candidate)(exported), folder, exported)

    def damage(self, candidate: Candidate, layers: Sequence[str]) -> Mapping[str, float]:
        """Error of the dense network's outputs by layer, that layer alone in the candidate's precision."""
        dense = self.equalised(self.dense) if candidate.equalised else self.dense
        if candidate.precision in WEIGHT_FORMS:
            return weight_damage(
                dense, WEIGHT_FORMS[candidate.precision], layers, self.calibration[0], self.yardstick()
            )
        return damage(
            dense,
            self._ranges(candidate, dense),
            self.dialect,
            layers,
            self.calibration[0],
            self.yardstick(),
            reduce_range=candidate.reduce_range,
        )

    def equalised(self, captured: Captured) -> Captured:
        return smooth(equalise(captured), self.calibration)

    def _ranges(self, candidate: Candidate, captured: Captured) -> Ranges:
        """Ranges of the candidate's calibrator; the extremes where it has none and layers are ranked."""
        calibrator = candidate.calibrator or DYNAMIC
        name = "minmax" if calibrator == DYNAMIC else calibrator
        if captured is not self.dense:
            return calibrate(captured, self.calibration, name)
        if name not in self._dense_ranges:
            self._dense_ranges[name] = calibrate(captured, self.calibration, name)
        return self._dense_ranges[name]

    def _write(
        self, model: onnx.ModelProto, folder: Path, exported: onnx.ModelProto, *, convolved: bool = False
    ) -> Path:
        """Write the artefact of an ONNX model in the runtime's format.

        exported: the float model behind it. convolved: with its integer products as 1x1 convolutions.
        """
        artefact = folder / self.artefact
        if artefact.suffix == ".onnx" or self.keep_onnx:
            onnxfile.save(model, artefact.with_suffix(".onnx"))
        if artefact.suffix == ".xml":
            if convolved:
                model = onnxfile.copied(model)
                convolve_products(model)
            *shorter, feeds = self._feeds()
            write_ir(model, artefact, feeds, float_model=exported, more=shorter)
        _log.info("built %r of %d operators", "/".join(artefact.parts[-2:]), len(model.graph.node))
        return artefact

    def _halved(self, pruned: Captured, exported: onnx.ModelProto) -> onnx.ModelProto:
        """The model in float16, where that moves no output by more than HALF_TOLERANCE, else as it is.

        Their distance counts, too: a forecast may vary by little about a mean that float16 rounds by more.
        """
        from edgeprune.runtimes.ort import Runner  # imports onnxruntime

        model, feeds = onnxfile.copied(exported), self._feeds()[-1]
        halve(model, Graph(model, calibrate(pruned, self.calibration, "minmax")).bounds)
        exact = Runner(onnxfile.content(exported), 1).run(feeds)
        found = Runner(onnxfile.content(model), 1, exact=True).run(feeds)
        given, wanted = ([torch.from_numpy(each) for each in outputs] for outputs in (found, exact))
        moved = float(self.yardstick().distance(given, wanted))
        kept = difference(found, exact) <= HALF_TOLERANCE and moved <= LARGEST_ERROR**2
        return model if kept else exported

    def _feeds(self) -> list[dict[str, Any]]:
        """The example by input name, at each length, the longest last."""
        return [
            {name: x.numpy(force=True) for name, x in zip(self.dense.input_names, inputs, strict=True)}
            for inputs in self.dense.examples()
        ]
