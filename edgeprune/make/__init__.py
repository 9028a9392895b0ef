"""Artefacts of candidates: pruned, trained, exported and quantised for one runtime."""

from edgeprune.make.builder import Built
from edgeprune.make.workshop import Workshop, as_candidate_kept, recovered, trainings

__all__ = ["Built", "Workshop", "as_candidate_kept", "recovered", "trainings"]
