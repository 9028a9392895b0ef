"""Workshop of a fit: everything that its candidates share, and how one is pruned and trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
import torch

from edgeprune.errors import InputError
from edgeprune.export import to_onnx
from edgeprune.graph.branch_contents import groups_without_use
from edgeprune.graph.capture import Captured
from edgeprune.graph.cost import Cost, count
from edgeprune.graph.coupling import Coupling, Kept, analyse
from edgeprune.graph.onnx_operator import kept_names
from edgeprune.graph.resize import Resizable, resizable
from edgeprune.graph.surgery import cut, uncut
from edgeprune.make.builder import Builder
from edgeprune.make.first_batch import Understood, understand
from edgeprune.meaning.losses import Loss, or_own
from edgeprune.meaning.yardstick import Yardstick
from edgeprune.pruning.criteria import DEFAULT, Criterion, find_criterion
from edgeprune.pruning.grams import Consumer, grams
from edgeprune.pruning.importance import check_scorable, importance
from edgeprune.pruning.sequential import refit, solving_rows
from edgeprune.quantize.dialects import Dialect
from edgeprune.quantize.emit import Quantised
from edgeprune.quantize.simulate.planned import layer_nodes
from edgeprune.quantize.simulate.training import QuantisationAware
from edgeprune.records.task import Predict, Task
from edgeprune.records.trial import Candidate, Training
from edgeprune.recover.batchnorm import reestimate
from edgeprune.recover.data import Split, split
from edgeprune.recover.ladder import Judge, Listen, Rung, attempt, judge_of, train_aware, train_rungs
from edgeprune.recover.lora import adaptable
from edgeprune.recover.objective import Objective, Pair
from edgeprune.recover.place import training_place
from edgeprune.recover.recipe import Recipe, TrainingOptions
from edgeprune.recover.rewind import required, rewound
from edgeprune.recover.together import check_rows
from edgeprune.recover.train import rehearse
from edgeprune.recover.trainer import own_rungs, trainer_of
from edgeprune.recover.warm_start import better_start
from edgeprune.recover.ways import LABELLED, OWN, UNLABELLED, before_training, find_way
from edgeprune.search.ranking import Choice, Ranking
from edgeprune.tasks import capture_pure, flat_inputs, lengths_of, training_again, training_pairs, walk


class Workshop:
    """The dense graph, its groups, the data and the scores that all candidates of a fit share."""

    def __init__(
        self,
        task: Task,
        dialect: Dialect,
        *,
        runtime: str = "onnxruntime",
        criterion: str | Criterion = DEFAULT,
        seed: int = 0,
        rows: int | None = None,
        lost_in: Callable[[Path], Iterable[str]] | None = None,
        keep_onnx: bool = False,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """rows: as for `capture`. lost_in, keep_onnx: as for `Builder`.

        tell: gets sentences about the data, each once.
        """
        self.task = task
        self._tell, self._told = tell, set[str]()
        self.dialect = dialect
        # Scores come late, when a run has begun: a wrong criterion is refused here.
        self.criterion = find_criterion(criterion)
        self.seed = seed
        self.lengths = lengths_of(task.example, task.lengths, task.length_dims)
        self.dense: Captured = capture_pure(task.model, task.example, rows, self.lengths)
        self.coupling: Coupling = analyse(self.dense)
        self.cost: Cost = count(self.dense, self.coupling)
        self.criterion.check_labels(self.labelled)
        self.calibration = [
            flat_inputs(task.example, batch) for batch in walk(task.calibration, "calibration")
        ]
        self.builder = Builder(
            *(self.dense, self.calibration, dialect, runtime),
            yardstick=lambda: self.yardstick,
            lost_in=lost_in,
            keep_onnx=keep_onnx,
        )

    # Learnt once ------------------------------------------------------------------------------------

    @cached_property
    def split(self) -> Split:
        """The training data, or where there is none the calibration inputs without labels."""
        with torch.no_grad():
            example = (*self.dense.inputs, *self.dense.run(*self.dense.inputs))
        sample_bytes = sum(tensor.nbytes for tensor in example) // len(example[0])
        if self.task.train is None:
            return split(lambda: [(inputs, None) for inputs in self.calibration], sample_bytes)
        return split(lambda: training_again(self.task, self._once), sample_bytes)

    def _once(self, sentence: str) -> None:
        """Tell a sentence that every pass over the data would say again."""
        if self._tell is not None and sentence not in self._told:
            self._tell(sentence)
        self._told.add(sentence)

    @cached_property
    def first(self) -> Pair:
        """The first batch of what recovery trains on."""
        pair = None if self.task.train is None else next(training_pairs(self.task), None)
        return (self.calibration[0], None) if pair is None else pair

    @property
    def labelled(self) -> bool:
        """Whether the training data have targets."""
        return self.task.train is not None and self.first[1] is not None

    @cached_property
    def understood(self) -> Understood:
        """Meaning of the outputs, and the loss on targets."""
        return understand(self.task, self.dense, self.first, self.calibration)

    @property
    def yardstick(self) -> Yardstick:
        return self.understood.yardstick

    @property
    def loss(self) -> Loss:
        return self.understood.loss

    def rehearse(self, recover: str, options: TrainingOptions) -> None:
        """Refuse, before anything is measured, what scores and training in the way `recover` stumble over.

        Raises `InputError`, with the line of the user's code where that raised.
        """
        check_scorable(self.dense, self.coupling, self.criterion)
        way = find_way(recover)
        pair, yardstick = self.first, self.yardstick
        if way.trains and options.trains and not way.own_loop:
            recipe = Recipe(options, supervised=way.labels != "unused", low_rank=way.low_rank)
            place = training_place(options.device)
            teacher, student = self.dense.on(place.device), self.dense.copy().on(place.device)
            yardstick, loss = place.yardstick(yardstick), place.loss(self.loss)
            if options.processes > 1:
                check_rows(self.dense.run(*pair[0]), len(pair[0][0]))
            with place.seeded(options.seed):
                objective = Objective(teacher, yardstick, recipe, loss, place.mixed)
                rehearse(student, objective, place.tensors(pair))

    @cached_property
    def judge(self) -> Judge:
        return judge_of(self.dense, self.yardstick, self.split.held_back, self.loss)

    @cached_property
    def consumers(self) -> Mapping[str, Consumer]:
        return grams(self.dense, self.coupling, self.calibration)

    @cached_property
    def rows(self) -> list[tuple[torch.Tensor, ...]]:
        """Calibration rows that weights are solved from."""
        return solving_rows(self.calibration, self.cost.macs({}))

    @cached_property
    def scores(self) -> Mapping[str, Any]:
        labelled = (
            self.split.epoch(0) if self.task.train is not None else ((x, None) for x in self.calibration)
        )
        return importance(
            *(self.dense, self.coupling, self.criterion, labelled),
            *(or_own(self.loss, self.yardstick), self.seed),
            consumers=lambda: self.consumers,
        )

    def ranking(self, channel_multiple: int) -> Ranking:
        """Global ranking of all units by importance, from which widths are allocated."""
        choices = tuple(
            Choice(group.name, self.scores[group.name], channel_multiple, group.least)
            for group in self.coupling.groups
        )
        return Ranking(choices, work=lambda widths: float(self.cost.macs(widths)))

    @cached_property
    def resizable(self) -> Resizable:
        """The ONNX model at any widths, without another export. Raises `EdgepruneError` when it has none."""

        def export(widths: Mapping[str, int]) -> onnx.ModelProto:
            pruned = cut(self.dense, self.coupling, {name: range(n) for name, n in widths.items()})
            return to_onnx(pruned, prove=False)

        return resizable(self.coupling, export, self.seed, self.lengths)

    def draft(self, candidate: Candidate, folder: Path) -> Path:
        """Write an artefact of the candidate's shapes and precision, with weights that mean nothing.

        Raises `EdgepruneError` when the model's file has no other widths.
        """
        folder.mkdir(parents=True, exist_ok=True)
        kept = dict(candidate.kept)
        if self.coupling.dropped(kept):  # another graph
            exported = to_onnx(cut(self.dense, self.coupling, kept), prove=False)
        else:
            exported = self.resizable.at(dict(self.widths(kept)))
        return self.builder.draft(candidate, exported, folder)

    def fragile_layers(self, candidate: Candidate, layers: Sequence[str]) -> tuple[str, ...]:
        """Layers in the order in which giving them back to float gains most.

        The gain is the error that INT8 makes of the dense network's output there, by the work that it saves.
        """
        found = self.builder.damage(candidate, layers)
        macs, nodes = self.cost.node_macs(), layer_nodes(self.dense)
        work = {layer: sum(macs[node.name] for node in nodes.get(layer, ())) for layer in layers}
        return tuple(sorted(layers, key=lambda layer: (-found[layer] / max(work[layer], 1), layer)))

    @cached_property
    def share_of_products(self) -> float:
        """Share of the work that is products with stored matrices, which dynamic ranges and blocks serve."""
        return self._product_macs / max(sum(self.cost.node_macs().values()), 1)

    @cached_property
    def uses_of_weights(self) -> float:
        """Multiplications of a query with each weight of a product: 1 for a query of one token."""
        return self._product_macs / max(self.cost.params({}), 1)

    @cached_property
    def _product_macs(self) -> int:
        macs = self.cost.node_macs()
        nodes = [node for found in layer_nodes(self.dense).values() for node in found]
        return sum(macs[node.name] for node in nodes if "conv" not in str(node.target))

    @property
    def predict(self) -> Predict:
        """The dense model as `Task.evaluate` calls it."""
        return self.predictor(self.dense)

    def predictor(self, captured: Captured) -> Predict:
        """A graph as `Task.evaluate` calls it: arrays in order, or one dict of them by name."""

        def predict(*arrays: Any) -> Any:
            given = arrays[0] if len(arrays) == 1 and isinstance(arrays[0], Mapping) else None
            ordered = [given[name] for name in self.dense.input_names] if given is not None else arrays
            with torch.no_grad():
                outputs = captured.run(*(torch.as_tensor(array) for array in ordered))
            answers = tuple(output.numpy(force=True) for output in outputs)
            return answers[0] if len(answers) == 1 else answers

        return predict

    def widths(self, kept: Kept) -> tuple[tuple[str, int], ...]:
        """Units per group; 0 for a dropped branch and the groups inside it."""
        dropped = self.coupling.dropped(kept)
        gone = groups_without_use(self.dense.module, self.coupling, dropped) if dropped else ()
        groups = [
            (group.name, 0 if group.name in gone else len(kept.get(group.name, range(group.units))))
            for group in self.coupling.groups
        ]
        return (*groups, *((branch.name, 0) for branch in dropped))

    # Made per candidate -----------------------------------------------------------------------------

    def prune(self, kept: Kept, recover: str) -> tuple[Captured, tuple[Rung, ...]]:
        """Cut; where the recovery way reconstructs, solve for the consumers and re-estimate BatchNorm."""
        pruned = cut(self.dense, self.coupling, kept)
        if not find_way(recover).reconstructs or not self.split.held_back:
            return pruned, ()
        rungs = []
        for name, step in (("reconstruct", self._reconstruct(kept)), ("statistics", self._reestimate)):
            pruned, rung = attempt(name, pruned, self.judge, step)
            rungs.append(rung)
        return pruned, tuple(rungs)

    def train(
        self,
        pruned: Captured,
        kept: Kept,
        recover: str,
        options: TrainingOptions,
        listen: Listen | None,
        checkpoint: Path | None = None,
    ) -> tuple[Captured, tuple[Rung, ...]]:
        """Train `pruned`, which holds the units kept, in the recovery way `recover` where that trains."""
        way, start = find_way(recover), None
        if way.own_loop and options.trains:
            return own_rungs(
                *(pruned, self.dense, trainer_of(self.task), self.split, self.judge),
                example=self.task.example,
                seed=self.seed,
                listen=listen,
            )
        if way.needs_earlier:
            start = rewound(self.dense, self.coupling, kept, required(self.task.earlier))
        return train_rungs(
            pruned,
            self.dense,
            recover,
            self.split,
            self.judge,
            options,
            listen=listen,
            checkpoint=checkpoint,
            start=start,
        )

    def warm_start(
        self, pruned: Captured, kept: Kept, larger: Captured, larger_kept: Kept
    ) -> tuple[Captured, Rung]:
        """The better start by held-back error: `pruned`, or its units of a larger network after training."""
        whole = uncut(self.dense, self.coupling, larger_kept, larger)

        def rebuild(other: Captured) -> object:
            return refit(other, whole, self.coupling, kept, self.rows)

        # A branch that the larger network has lost is at work in the whole one: sums there are not its own.
        settle = [] if self.coupling.dropped(larger_kept) else [rebuild]
        other = cut(whole, self.coupling, kept)
        return better_start(pruned, other, self.judge, [*settle, self._reestimate])

    def train_aware(
        self,
        candidate: Candidate,
        student: Captured,
        options: TrainingOptions,
        listen: Listen | None,
        checkpoint: Path | None = None,
    ) -> tuple[Captured, tuple[Rung, ...]]:
        """Train a graph for the candidate's INT8 variant: the recovery rung "qat"."""
        if candidate.equalised:
            student = self.builder.equalised(student)
        exported = to_onnx(student)

        def emit(now: Captured) -> Quantised:
            return self.builder.quantised(candidate, now, exported)

        return train_aware(
            student,
            self.dense,
            lambda now: QuantisationAware(now, self.dialect, emit, reduce_range=candidate.reduce_range),
            self.split,
            self.judge,
            options,
            supervised=find_way(candidate.recover).labels != "unused",
            listen=listen,
            checkpoint=checkpoint,
        )

    def highest_rung(self, wished: str | None) -> str:
        """The recovery way that was asked for, or the highest that the task's data and outputs allow.

        Nothing can be trained towards decisions alone, where there are no weights, or through an operator
        without a gradient. Raises `InputError` when there is no such way, or it needs what the task has not.
        """
        kept = kept_names(self.dense.module)
        if wished is None:
            highest = LABELLED if self.labelled else UNLABELLED
            if self.task.trainer is not None:
                highest = OWN
            with torch.no_grad():
                outputs = self.dense.run(*self.dense.inputs)
            weights = any(map(torch.is_floating_point, self.dense.module.parameters()))
            trained = weights and not kept and any(map(torch.is_floating_point, outputs))
            return highest if trained else before_training(highest)
        way = find_way(wished)
        if way.trains and kept:
            raise InputError(
                f"Recovery {wished!r} trains, and there is no gradient through {' and '.join(kept)}, which "
                "edgeprune keeps as the ONNX file has it.",
                f"Recover with {before_training(wished)}, or give the model as a FILE.py or a MODEL.pt2.",
            )
        if way.needs_earlier:
            required(self.task.earlier)
        if way.own_loop:
            trainer_of(self.task)
        way.check_labels(self.labelled)
        if way.low_rank:
            adaptable(self.dense)  # refuses a model without a layer for it before a search begins
        return wished

    def _reconstruct(self, kept: Kept) -> Callable[[Captured], object]:
        return lambda pruned: refit(pruned, self.dense, self.coupling, kept, self.rows)

    def _reestimate(self, pruned: Captured) -> object:
        return reestimate(pruned, self.calibration)


def recovered(rungs: Iterable[Rung]) -> tuple[tuple[str, float, float, bool], ...]:
    return tuple((rung.name, rung.before, rung.after, rung.kept) for rung in rungs)


def trainings(rungs: Iterable[Rung]) -> tuple[Training, ...]:
    """Trainings of the rungs that train."""
    return tuple(rung.training for rung in rungs if rung.training is not None)


def as_candidate_kept(kept: Mapping[str, Sequence[int]]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(units)) for name, units in sorted(kept.items()))
