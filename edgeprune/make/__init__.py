"""From a candidate to what a runtime loads: pruned, trained, exported, quantised."""

from edgeprune.make.builder import Built
from edgeprune.make.workshop import Workshop, as_candidate_kept, recovered

__all__ = ["Built", "Workshop", "as_candidate_kept", "recovered"]
