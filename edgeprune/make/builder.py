"""Candidate -> artefact: export, calibrate, emit in the runtime's dialect and format."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from edgeprune.export import export_onnx
from edgeprune.files import scratch, write
from edgeprune.graph import onnxfile
from edgeprune.graph.capture import Captured
from edgeprune.graph.pointwise import convolve_products
from edgeprune.ir import TOLERANCE, difference, write_ir
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

MODEL = "model"  # the artefact's name, before the suffix of its runtime


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
        lost_in: Callable[[Path], Iterable[str]] | None = None,
        keep_onnx: bool = False,
    ) -> None:
        self.dense, self.calibration, self.dialect = dense, calibration, dialect
        self.artefact = f"{MODEL}{find(runtime).suffix}"
        self.lost_in = lost_in
        self.keep_onnx = keep_onnx
        self._dense_ranges: dict[str, Ranges] = {}  # by calibrator: forms that share one, share its ranges
        self._held = ExitStack()  # the scratch folder of what is exported once
        weakref.finalize(self, self._held.close)

    def build(
        self,
        candidate: Candidate,
        pruned: Captured,
        folder: Path,
        probe: tuple[torch.Tensor, ...],
        batch: int | None = None,
    ) -> Built:
        """Write the artefact of `pruned` into `folder`, in the format of the runtime.

        probe: flat inputs on which the integers are proven: `Built.reference` are the outputs for them.
        batch: rows of a query, where its range depends on them; None when all are one.
        Raises `InputError` naming the node that TensorRT would refuse, where it builds the engine.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if candidate.equalised and not candidate.qat:
            pruned = self.equalised(pruned)
        exported = self.exported(pruned, folder / "float.onnx")
        if self.lost_in is not None:
            check_types(exported)
        if candidate.precision == "float32":
            layers = tuple(onnxfile.layers(onnxfile.load(exported)).values())
            if self.dialect.half:
                self._halve(pruned, exported)
            with torch.no_grad():
                reference = [output.numpy(force=True) for output in pruned.run(*probe)]
            return Built(self._stored(exported, folder, exported), (), layers, reference)
        written, lost = self._settled(candidate, pruned, exported, folder)
        proven = proven_integers(
            pruned, written.path, probe, batch if candidate.calibrator == DYNAMIC else None
        )
        artefact = self._stored(written.path, folder, exported, convolved=candidate.convolved)
        return Built(artefact, written.layers_int8, written.layers_float, proven, lost)

    def exported(self, captured: Captured, path: Path) -> Path:
        """Write the float ONNX file. That of the dense model, of which most forms are, is exported once."""
        if captured is not self.dense:
            return export_onnx(captured, path)
        write(path, self._dense_onnx.read_bytes())
        return path

    @cached_property
    def _dense_onnx(self) -> Path:
        return export_onnx(self.dense, self._held.enter_context(scratch()) / "dense.onnx")

    def _settled(
        self, candidate: Candidate, pruned: Captured, exported: Path, folder: Path
    ) -> tuple[Quantised, tuple[str, ...]]:
        """The file as its engine runs it, and the layers that are in float for the engine's sake."""
        if self.lost_in is None:
            return self.quantised(candidate, pruned, exported, folder / "int8.onnx"), ()

        def write(lost: tuple[str, ...]) -> Quantised:
            known = tuple(sorted({*candidate.engine_layers, *lost}))
            form = replace(candidate, engine_layers=known)
            # Under its final name: a device that built its engine has the file already.
            return self.quantised(form, pruned, exported, folder / self.artefact)

        return write_for_engine(write, self.lost_in)

    def quantised(self, candidate: Candidate, pruned: Captured, exported: Path, path: Path) -> Quantised:
        narrow, left = candidate.reduce_range, candidate.in_float
        if candidate.precision in WEIGHT_FORMS:
            return compress_weights(exported, path, candidate.precision, float_layers=left)
        if candidate.calibrator == DYNAMIC:
            return quantise_dynamic(exported, path, reduce_range=narrow, float_layers=left)
        ranges = self._ranges(candidate, pruned)
        if not candidate.qat:  # training has moved every bias to where INT8 needs it
            ranges = correct_means(
                pruned, ranges, self.dialect, self.calibration, reduce_range=narrow, float_layers=left
            )
        return quantise(exported, ranges, self.dialect, path, reduce_range=narrow, float_layers=left)

    def emitter(self, candidate: Candidate) -> Callable[[Path, Path], Path]:
        """(float ONNX of other widths, where to write) -> an artefact in the candidate's precision.

        For timing only: ranges are those of the dense model.
        """
        if candidate.precision == "float32":
            return lambda source, path: source
        left = candidate.in_float
        if candidate.calibrator == DYNAMIC:
            return lambda source, path: quantise_dynamic(source, path, float_layers=left).path
        ranges = self._ranges(candidate, self.dense)

        def emit(source: Path, path: Path) -> Path:
            written = quantise(source, ranges, self.dialect, path, float_layers=left).path
            return convolve(written, written) if candidate.convolved else written

        return emit

    def draft(self, candidate: Candidate, exported: Path) -> Path:
        """The artefact, for timing only, of a float ONNX file of the candidate's shapes; beside that file."""
        written = self.emitter(candidate)(exported, exported.with_name("int8.onnx"))
        return self._stored(written, exported.parent, exported)

    def damage(self, candidate: Candidate, layers: Sequence[str]) -> Mapping[str, float]:
        """What the candidate's precision does to the dense model's output, one layer at a time."""
        dense = self.equalised(self.dense) if candidate.equalised else self.dense
        if candidate.precision in WEIGHT_FORMS:
            return weight_damage(dense, WEIGHT_FORMS[candidate.precision], layers, self.calibration[0])
        return damage(
            dense,
            self._ranges(candidate, dense),
            self.dialect,
            layers,
            self.calibration[0],
            reduce_range=candidate.reduce_range,
        )

    def equalised(self, captured: Captured) -> Captured:
        return smooth(equalise(captured), self.calibration)

    def _ranges(self, candidate: Candidate, captured: Captured) -> Ranges:
        """Of the candidate's calibrator; to rank layers of one without, the extremes stand for its ranges."""
        calibrator = candidate.calibrator or DYNAMIC
        name = "minmax" if calibrator == DYNAMIC else calibrator
        if captured is not self.dense:
            return calibrate(captured, self.calibration, name)
        if name not in self._dense_ranges:
            self._dense_ranges[name] = calibrate(captured, self.calibration, name)
        return self._dense_ranges[name]

    def _stored(self, made: Path, folder: Path, exported: Path, *, convolved: bool = False) -> Path:
        """The artefact out of the ONNX file that was made, which goes, as does the float one behind it."""
        artefact = folder / self.artefact
        if artefact.suffix == ".xml":
            source = convolve(made, folder / "convolved.onnx") if convolved else made
            write_ir(source, artefact, self._feeds(), float_onnx=exported)
            if source != made:
                source.unlink()
        if artefact.suffix == ".onnx" or self.keep_onnx:
            made.replace(artefact.with_suffix(".onnx"))
        for spent in {made, exported} - {artefact}:
            spent.unlink(missing_ok=True)
        return artefact

    def _halve(self, pruned: Captured, exported: Path) -> None:
        """Float16 in place of a float file, where that moves no output by more than TOLERANCE."""
        from edgeprune.runtimes.ort import Runner  # imports onnxruntime

        model, feeds = onnxfile.load(exported), self._feeds()
        exact = Runner(str(exported), 1).run(feeds)
        halve(model, Graph(model, calibrate(pruned, self.calibration, "minmax")).bounds)
        path = onnxfile.save(model, exported.with_name("half.onnx"))
        if difference(Runner(str(path), 1, exact=True).run(feeds), exact) <= TOLERANCE:
            path.replace(exported)
        path.unlink(missing_ok=True)

    def _feeds(self) -> dict[str, Any]:
        """The example, by input name."""
        inputs = zip(self.dense.input_names, self.dense.inputs, strict=True)
        return {name: tensor.numpy(force=True) for name, tensor in inputs}


def convolve(source: Path, path: Path) -> Path:
    """Write a Q/DQ file with its integer products as 1x1 convolutions."""
    model = onnxfile.load(source)
    convolve_products(model)
    return onnxfile.save(model, path)
