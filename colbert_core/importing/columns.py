"""Ids, texts and metadata for an index that has only numbers: from a list, a corpus, or neither.

    Columns.open(passages, ids, collection, metadata).read(first, kept)

A list or a corpus is read twice: once to count and to find duplicates, before any work, and once
beside the tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from colbert_core.errors import CorpusError, InvalidInput
from colbert_core.index.importers.source import Rows
from colbert_core.types import AnyArray, Passage


@dataclass
class Columns:
    """What is stored beside the vectors; `read` is called for all passages, in order.

    Attributes:
        passages: one of them each; None where ids are numbers.
        texts: whether they have texts and metadata.
        rows: (passage, metadata) of the engine itself, ascending.
    """

    passages: Iterator[Passage] | None
    texts: bool
    rows: Iterator[tuple[int, Mapping[str, Any]]] = field(default_factory=lambda: iter(()))
    _row: tuple[int, Mapping[str, Any]] | None = None

    @classmethod
    def open(
        cls, count: int, ids: Path | None, collection: list[str] | None, metadata: Rows | None
    ) -> Columns:
        """Check what was given.

        Args:
            count: passages of the index, with those that have no tokens.

        Raises:
            InvalidInput: both were given, or a file cannot be read.
            CorpusError: there are not as many as passages, or an id comes twice.
        """
        rows = metadata() if metadata else iter(())
        if ids and collection:
            raise InvalidInput("both --ids and --collection are given; a collection has ids too")
        if ids:
            _check(_lines(ids), count, str(ids))
            return cls(_lines(ids), False, rows)
        if collection:
            _check(_corpus(collection), count, ", ".join(collection))
            return cls(_corpus(collection), True, rows)
        return cls(None, False, rows)

    def read(
        self, first: int, kept_n: AnyArray
    ) -> tuple[list[str], list[str] | None, list[Mapping[str, Any]] | None]:
        """(ids, texts, metadata) of the passages from `first` on that are kept."""
        count = len(kept_n)
        if self.passages is None:
            here = [Passage(str(pid), "") for pid in range(first, first + count)]
        else:
            here = list(islice(self.passages, count))
            if len(here) != count:
                raise CorpusError(
                    f"the ids ended at passage {first + len(here)}: the file was changed meanwhile"
                )
        metadata = [dict(p.metadata) for p in here]
        for pid, row in self._rows_until(first + count):
            if pid >= first:
                metadata[pid - first] = dict(row) | metadata[pid - first]
        kept = kept_n.tolist()
        chosen = [p for p, keep in zip(here, kept, strict=True) if keep]
        rows: list[Mapping[str, Any]] = [m for m, keep in zip(metadata, kept, strict=True) if keep]
        return (
            [p.id for p in chosen],
            [p.text for p in chosen] if self.texts else None,
            rows if any(rows) else None,
        )

    def _rows_until(self, end: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """The engine's rows of passages before `end` that were not yet given."""
        while True:
            row = self._row or next(self.rows, None)
            self._row = row
            if row is None or not isinstance(row[0], int) or row[0] >= end:
                return
            self._row = None
            yield row


def _lines(path: Path) -> Iterator[Passage]:
    """One id a line."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                identity = line.rstrip("\r\n")
                if not identity.strip():
                    raise CorpusError(f"{path}:{number}: the id is empty; give one id a line")
                yield Passage(identity, "")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: the ids cannot be read: {error}") from error


def _corpus(collection: list[str]) -> Iterator[Passage]:
    from colbert_core.text.corpus import read_corpus

    return (document.passage for document in read_corpus(collection))


def _check(passages: Iterator[Passage], count: int, name: str) -> None:
    """As many as there are passages, each id once."""
    first: dict[str, int] = {}
    for number, passage in enumerate(passages):
        if passage.id in first:
            raise CorpusError(
                f"{name}: id {passage.id!r} is given twice: to passages {first[passage.id]} and "
                f"{number}"
            )
        first[passage.id] = number
    if len(first) != count:
        raise CorpusError(
            f"{name}: it has {len(first):,} ids and the index has {count:,} passages; give one for "
            "each, in the order of the index"
        )
