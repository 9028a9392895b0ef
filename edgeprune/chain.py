"""Chain of the lines of a file: each ends with the SHA-256 of the text before it and of itself.

So a line that an editor, a merge or a copy changed, moved or lost is noticed, and the first that is not as
it was written is known. That is against accidents: whoever wants to can hash as well. Lines that are gone
from the end leave no trace.

    {"key":"dense","record":1.5,"chain":"5e88...64 digits"}
"""

from __future__ import annotations

import hashlib

from edgeprune.records.codec import JSON, dumps

KEY = "chain"
_END = ',"chain":"{}"}}\n'
_END_SIZE = len(_END.format("0" * 64))


class Chain:
    """Lines of a file so far."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def line(self, document: dict[str, JSON]) -> bytes:
        """Line of a document that may follow; its key "chain" is replaced by the link."""
        start = dumps({key: item for key, item in document.items() if key != KEY}).encode("ascii")[:-1]
        return start + self._end(start)

    def follows(self, line: bytes) -> bool:
        """Whether a line has the link that it was written with."""
        start, end = line[:-_END_SIZE], line[-_END_SIZE:]
        return end == self._end(start)

    def add(self, line: bytes) -> None:
        """Go on behind a line, with a link or without."""
        self._digest.update(line)

    def _end(self, start: bytes) -> bytes:
        digest = self._digest.copy()
        digest.update(start)
        return _END.format(digest.hexdigest()).encode("ascii")


__all__ = ["Chain"]
