"""Finding duplicate ids with flat memory, however large the corpus.

Ids are hashed to 64 bits and spread over bucket files by their first bits, each with the ordinal
of its passage; one bucket at a time is then sorted in memory. Equal hashes are only candidates:
the ids themselves are compared by looking them up again, so a hash collision is never reported.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

BUCKETS = 64
FLUSH_ENTRIES = 4096
_ENTRY = np.dtype([("hash", "u8"), ("ordinal", "u8")])  # as two items of an array("Q")


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Two passages with one id, by their ordinals, and how many repeated ids there seem to be."""

    first: int
    second: int
    total: int


class DuplicateFinder:
    """Collects ids in corpus order, then names the first that came twice.

    Args:
        folder: an existing folder for the bucket files; about 16 bytes per passage are written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pending = [array("Q") for _ in range(BUCKETS)]
        self._count = 0

    def add(self, passage_id: str) -> None:
        """Record the id of the next passage."""
        value = int.from_bytes(hashlib.blake2b(passage_id.encode(), digest_size=8).digest())
        bucket = value % BUCKETS
        pending = self._pending[bucket]
        pending.extend((value, self._count))
        self._count += 1
        if len(pending) >= 2 * FLUSH_ENTRIES:
            self._flush(bucket)

    def find(self, id_at: Callable[[int], str]) -> Duplicate | None:
        """The duplicate whose second place comes first, or None; removes the bucket files.

        Args:
            id_at: gives the id of the passage at an ordinal; called for candidates only.
        """
        best: Duplicate | None = None
        total = 0
        for bucket in range(BUCKETS):
            self._flush(bucket)
            for ordinals in _groups(self._load(bucket)):
                total += len(ordinals) - 1
                best = _first_repeat(ordinals, id_at, best)
        return None if best is None else Duplicate(best.first, best.second, total)

    def _path(self, bucket: int) -> Path:
        return self._folder / f"ids-{bucket:02d}.bin"

    def _flush(self, bucket: int) -> None:
        pending = self._pending[bucket]
        if pending:
            with self._path(bucket).open("ab") as file:
                pending.tofile(file)
            del pending[:]

    def _load(self, bucket: int) -> npt.NDArray[np.void]:
        path = self._path(bucket)
        if not path.exists():
            return np.empty(0, dtype=_ENTRY)
        entries = np.fromfile(path, dtype=_ENTRY)
        path.unlink()
        return entries


def _groups(entries: npt.NDArray[np.void]) -> Iterator[npt.NDArray[np.uint64]]:
    """The ordinals of each hash that occurs more than once, ascending."""
    entries = entries[np.argsort(entries["hash"], kind="stable")]
    starts = np.flatnonzero(np.r_[True, entries["hash"][1:] != entries["hash"][:-1]])
    stops = np.append(starts[1:], len(entries))
    repeated = stops - starts > 1
    for start, stop in zip(starts[repeated], stops[repeated], strict=True):
        yield entries["ordinal"][start:stop]


def _first_repeat(
    ordinals: npt.NDArray[np.uint64], id_at: Callable[[int], str], best: Duplicate | None
) -> Duplicate | None:
    """The first true repetition in a group, if it comes before the best one so far."""
    seen: dict[str, int] = {}
    for second in ordinals.tolist():
        if best is not None and second >= best.second:
            break
        first = seen.setdefault(id_at(second), second)
        if first != second:
            return Duplicate(first, second, 0)
    return best
