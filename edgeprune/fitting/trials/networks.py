"""Networks of trials: cut, recovered and trained; trained ones stay in the run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from edgeprune.files import replacing, writing
from edgeprune.fitting.trials.verdict import Kind, TrialRecord
from edgeprune.graph.capture import Captured, module_of
from edgeprune.graph.coupling import Kept
from edgeprune.make import Workshop
from edgeprune.records.trial import Candidate
from edgeprune.recover.ladder import Rung
from edgeprune.recover.recipe import TrainingOptions
from edgeprune.recover.train import TrainingProgress

PT2 = "model.pt2"
CHECKPOINT = "training.pt"
Made = tuple[Captured, tuple[Rung, ...]]


@dataclass(frozen=True)
class Networks:
    """Networks by the names of their trials. tell: hears of progress (trial, what is done, share)."""

    workshop: Workshop
    folder: Path
    training: TrainingOptions
    tell: Callable[[str, str, float | None], None]

    def made(
        self,
        name: str,
        candidate: Candidate,
        kind: Kind,
        start: str | None,
        tested: Mapping[str, TrialRecord],
    ) -> Made:
        """Network of a candidate, and the recovery rungs that it climbed.

        kind: "trained" climbs the rungs that train. start: the trained trial that it goes on from.
        tested: trials so far.
        """
        if kind != "trained":
            return self.pruned(name, candidate)
        rungs: tuple[Rung, ...] = ()
        if start is not None:
            network = self.saved(start)
        else:
            larger = tested[candidate.warm_start].candidate.kept if candidate.warm_start else ()
            network, rungs = self.trained(name, candidate, dict(larger))
        network, more = self.aware(name, candidate, network)
        return network, (*rungs, *more)

    def pruned(self, name: str, candidate: Candidate) -> Made:
        """Network that is cut and reconstructed, without training."""
        if not candidate.kept:
            return self.workshop.dense, ()
        self.tell(name, "cutting and reconstructing", None)
        return self.workshop.prune(dict(candidate.kept), candidate.recover)

    def trained(self, name: str, candidate: Candidate, larger_kept: Kept) -> Made:
        """Network that is cut and trained. larger_kept: units of the trial that it may begin with,
        `candidate.warm_start`."""
        network, rungs = self.pruned(name, candidate)
        if not candidate.kept:
            return network, rungs
        kept = dict(candidate.kept)
        if candidate.warm_start is not None:
            network, rung = self.workshop.warm_start(
                network, kept, self.saved(candidate.warm_start), larger_kept
            )
            rungs = (*rungs, rung)
        network, more = self.workshop.train(
            *(network, kept, candidate.recover, self.training),
            *(self._recovering(name), self._checkpoint(name)),
        )
        return network, (*rungs, *more)

    def aware(self, name: str, candidate: Candidate, network: Captured) -> Made:
        """Network that is trained on for the INT8 variant of the candidate, where it asks for that."""
        if not candidate.qat:
            return network, ()
        return self.workshop.train_aware(
            candidate, network, self.training, self._recovering(name), self._checkpoint(name)
        )

    def path(self, name: str) -> Path:
        return self.folder / name / PT2

    def save(self, name: str, network: Captured) -> None:
        with replacing(self.path(name)) as temporary, temporary.open("wb") as stream:
            torch.export.save(network.program(), stream)

    def saved(self, name: str) -> Captured:
        """Network that a trained trial left, so that a resumed run goes on from the very same."""
        return self.workshop.dense.with_module(module_of(torch.export.load(self.path(name))))

    def forget_checkpoint(self, name: str) -> None:
        """Take away what a training of this trial would have gone on from: the trial is recorded."""
        path = self._checkpoint(name)
        with writing(path):
            path.unlink(missing_ok=True)

    def _checkpoint(self, name: str) -> Path:
        return self.folder / name / CHECKPOINT

    def _recovering(self, name: str) -> Callable[[str, TrainingProgress], None]:
        def listen(rung: str, now: TrainingProgress) -> None:
            error = "" if now.error is None else f", held-back error {now.error:.4g}"
            left = "" if now.seconds_left is None else f", {now.seconds_left / 60:.1f} min left"
            self.tell(name, f"recovering ({rung}){error}{left}", now.share)

        return listen
