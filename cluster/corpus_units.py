"""The first stage of an index job: a corpus is read once, checked whole, and cut into units.

After it, nothing needs the user's files any more, whatever their format was: workers read unit
files. It runs in the driver, in memory that does not grow with the corpus, and before any model
is loaded, so that bad input costs no work.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from cluster.plan import UnitBudget
from cluster.progress import Progress
from colbert_core.errors import CorpusError, JobFailed
from colbert_core.index.manifest import FileEntry
from colbert_core.storage import Location
from colbert_core.text.corpus import Document, Place, read_file, shown_id
from colbert_core.text.corpus_duplicates import Duplicate, DuplicateFinder
from colbert_core.text.corpus_records import encode_metadata
from workers.units import Staging, Unit, UnitRow, write_whole

_SHOWN_FILES = 5


@dataclass(frozen=True, slots=True)
class StagedCorpus:
    """A corpus as units, and the file of each. `empty` counts passages without text; they are
    kept."""

    units: tuple[Unit, ...]
    files: tuple[FileEntry, ...]
    empty: int

    @property
    def passages(self) -> int:
        return sum(unit.passages for unit in self.units)

    @property
    def text_bytes(self) -> int:
        return sum(unit.text_bytes for unit in self.units)


def write_plan(staging: Staging, corpus: StagedCorpus) -> FileEntry:
    """Write what the corpus was cut into: from here on it need not be read again."""
    data = orjson.dumps(corpus)
    return write_whole(staging.plan_path, lambda file: file.write(data))


def read_plan(staging: Staging) -> StagedCorpus:
    """What `write_plan` wrote."""
    raw = orjson.loads(staging.plan_path.read_bytes())
    return StagedCorpus(
        tuple(Unit(**unit) for unit in raw["units"]),
        tuple(FileEntry(**entry) for entry in raw["files"]),
        raw["empty"],
    )


def stage_corpus(
    files: Sequence[Location], staging: Staging, budget: UnitBudget, progress: Progress
) -> StagedCorpus:
    """Read and check every passage, and write the unit files.

    Raises:
        CorpusError: a passage cannot be indexed, an id comes twice, or there is no passage.
        JobFailed: the staging folder cannot be written.
    """
    writer = _UnitWriter(staging, budget, progress)
    finder = DuplicateFinder(staging.folder)
    try:
        for number, path in enumerate(files):
            for document in read_file(path):
                writer.add(document, number)
                finder.add(document.passage.id)
        corpus = writer.finish()
        if not corpus.units:
            raise CorpusError(
                f"the corpus is empty: {_shown(files)} hold no passage; give at least one"
            )
        lookup = _Lookup(staging, corpus.units, files)
        duplicate = finder.find(lookup.id_at)
    except OSError as error:
        raise JobFailed(
            f"{staging.folder}: the corpus cannot be staged here: {error.strerror or error}; "
            "free some space and run the same command again, or choose another --out"
        ) from error
    if duplicate is not None:
        raise CorpusError(lookup.describe(duplicate))
    return corpus


class _UnitWriter:
    """Collects passages and writes a unit whenever the budget is reached."""

    def __init__(self, staging: Staging, budget: UnitBudget, progress: Progress) -> None:
        self._staging = staging
        self._budget = budget
        self._progress = progress
        self._rows: list[UnitRow] = []
        self._bytes = 0
        self._first = 0
        self._empty = 0
        self._units: list[Unit] = []
        self._files: list[FileEntry] = []

    def add(self, document: Document, file: int) -> None:
        passage, place = document.passage, document.place
        at = f"{place} (id {shown_id(passage.id)})"
        metadata = encode_metadata(passage.metadata, at).decode()
        self._rows.append(UnitRow(passage.id, passage.text, metadata, file, place.line))
        self._bytes += len(passage.text.encode())
        self._empty += not passage.text
        if len(self._rows) >= self._budget.passages or self._bytes >= self._budget.text_bytes:
            self._flush()

    def finish(self) -> StagedCorpus:
        if self._rows:
            self._flush()
        return StagedCorpus(tuple(self._units), tuple(self._files), self._empty)

    def _flush(self) -> None:
        rows = self._rows
        unit = Unit(len(self._units), self._first, len(rows), self._bytes, rows[0].id, rows[-1].id)
        self._files.append(self._staging.write_unit(unit.index, rows))
        self._units.append(unit)
        self._first += len(rows)
        self._rows, self._bytes = [], 0
        self._progress.advance(unit.passages)


class _Lookup:
    """Finds a staged passage again by its ordinal."""

    def __init__(self, staging: Staging, units: Sequence[Unit], files: Sequence[Location]) -> None:
        self._staging = staging
        self._firsts = [unit.first for unit in units]
        self._files = files

    def id_at(self, ordinal: int) -> str:
        return self._row(ordinal).id

    def describe(self, duplicate: Duplicate) -> str:
        first, second = self._row(duplicate.first), self._row(duplicate.second)
        more = f" ({duplicate.total:,} ids are repeated in all)" if duplicate.total > 1 else ""
        return (
            f"the id {shown_id(second.id)} is given twice: at {self._place(first)} and at "
            f"{self._place(second)}{more}; every passage needs an id of its own"
        )

    def _row(self, ordinal: int) -> UnitRow:
        unit = bisect_right(self._firsts, ordinal) - 1
        return self._staging.row(unit, ordinal - self._firsts[unit])

    def _place(self, row: UnitRow) -> Place:
        return Place(str(self._files[row.file]), row.line)


def _shown(files: Sequence[Location]) -> str:
    names = ", ".join(str(path) for path in files[:_SHOWN_FILES])
    more = len(files) - _SHOWN_FILES
    return f"{names} and {more} more" if more > 0 else names
