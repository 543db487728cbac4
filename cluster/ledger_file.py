"""The ledger on disk: opened and checked against the files that it names, then only appended to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from cluster.corpus_units import read_plan
from cluster.ledger import Asked, Book, Done, Record, line_of, parse
from cluster.resuming import without_damaged
from colbert_core.index.files import entry_of, write_file
from colbert_core.index.manifest import FileEntry
from workers.units import Staging

LEDGER = "ledger.jsonl"
CHECKING_THREADS = 4  # reading and hashing overlap; hashing leaves the interpreter free

Named = tuple[tuple[str, int], Path, FileEntry]
"""What a record speaks of (kind and number), one of its files, and what that should be."""


class Ledger:
    """The ledger of one job, open for appending. Only the driver holds it.

    Args:
        index, staging: folders that its records speak of.
        done: what it says already.
    """

    def __init__(self, index: Path, staging: Path, done: Done) -> None:
        self._path = staging / LEDGER
        self._index = index
        self._staging = staging
        self._book = Book(done)
        self._file: IO[bytes] | None = None

    @classmethod
    def read(cls, index: Path, staging: Path) -> Ledger:
        """What a job left behind, unchecked; nothing where there is no ledger, or no whole line."""
        try:
            data = (staging / LEDGER).read_bytes()
        except FileNotFoundError:
            data = b""
        return cls(index, staging, parse(data))

    @property
    def done(self) -> Done:
        return self._book.done

    def begin(self, asked: Asked) -> None:
        """Start a ledger, or go on with this one, without what was torn or does not count.

        Raises:
            OSError: the staging folder cannot be written.
        """
        self._book.add(asked)
        whole = b"".join(line_of(record) for record in self.done.records())
        write_file(self._path, whole)
        self._file = self._path.open("ab")

    def add(self, record: Record) -> None:
        """Append a record; what it speaks of was committed before.

        Raises:
            OSError: the disk is full, or worse; then the record does not count.
        """
        assert self._file is not None, "begin first"
        self._file.write(line_of(record))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._book.add(record)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def forget_damaged(self) -> list[str]:
        """Compare every committed file with its checksum; what is not whole no longer counts.

        What no record speaks of is removed, so that nobody takes it for whole.

        Returns:
            Paths of the files that were missing, torn or altered.
        """
        named = list(committed(self.done, self._index, self._staging))
        with ThreadPoolExecutor(CHECKING_THREADS) as pool:
            whole = list(pool.map(_is_whole, named))
        bad = [item for item, good in zip(named, whole, strict=True) if not good]
        done = without_damaged(self.done, [item for item, _, _ in bad])
        self._book = Book(done)
        if any(kind == "staged" for (kind, _), _, _ in bad):
            Staging(self._staging).plan_path.unlink(missing_ok=True)  # the corpus is read again
        self._remove_unnamed(done)
        return [str(path) for _, path, _ in bad]

    def _remove_unnamed(self, done: Done) -> None:
        units = Staging(self._staging)
        kept = {units.vectors_path(unit) for unit in done.embedded if unit not in done.compressed}
        for path in self._staging.rglob("*"):
            if path.suffix == ".tmp" or (path.parent.name == "vectors" and path not in kept):
                path.unlink(missing_ok=True)


def committed(done: Done, index: Path, staging: Path) -> Iterator[Named]:
    """Every file that the records of a ledger speak of, but for those that list others."""
    units = Staging(staging)
    if done.staged is not None:
        plan = ("staged", 0), units.plan_path, done.staged.plan
        yield plan
        if _is_whole(plan):
            for unit, entry in enumerate(read_plan(units).files):
                yield ("staged", 0), units.unit_path(unit), entry
    for unit, result in done.embedded.items():
        if unit not in done.compressed:  # else it was used, and removed
            yield ("embedded", unit), units.vectors_path(unit), result.file
    for unit, result in done.compressed.items():
        yield ("compressed", unit), units.chunk_path(unit), result.file
    if done.started is not None and done.trained is not None:
        for name, entry in done.trained.files.items():
            yield ("trained", 0), index / "global" / done.started.generation / name, entry
    for number, shard in done.shards.items():
        for name, entry in shard.files.items():
            yield ("shard", number), index / "shards" / shard.entry.id / name, entry


def _is_whole(named: Named) -> bool:
    _, path, entry = named
    try:
        return path.stat().st_size == entry.size_bytes and entry_of(path) == entry
    except OSError:
        return False
