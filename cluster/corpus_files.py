"""Corpus files as a ledger remembers them: what they were when the job was planned."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cluster.ledger import CorpusFile
from colbert_core.index.files import entry_of
from colbert_core.storage import Location

_STAMP_DIGITS = 15  # of a hash, as a number of 60 bits


def seen(path: Location) -> CorpusFile:
    """A file by its size and time; an object in a bucket by its size and version."""
    if isinstance(path, Path):
        at = path.stat()
        return CorpusFile(str(path.absolute()), at.st_size, at.st_mtime_ns)
    stored = path.stat()
    stamp = int(hashlib.sha256(stored.version.encode()).hexdigest()[:_STAMP_DIGITS], 16)
    return CorpusFile(str(path), stored.st_size, stamp)


def digest(path: Location) -> str:
    """What changes with the content: SHA-256, or the version of an object in a bucket."""
    return entry_of(path).sha256 if isinstance(path, Path) else path.stat().version
