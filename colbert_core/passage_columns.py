"""What is stored beside the vectors, one entry a passage: checked before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from colbert_core.errors import CorpusError, InvalidInput


class Columns(NamedTuple):
    """Ids, and texts and metadata where there are some."""

    ids: Sequence[str]
    texts: Sequence[str] | None
    metadata: Sequence[Mapping[str, Any]] | None

    def part(self, rows: slice) -> Columns:
        """The same of some passages."""
        return Columns(
            self.ids[rows],
            self.texts[rows] if self.texts else None,
            self.metadata[rows] if self.metadata else None,
        )


def check_columns(
    count: int,
    ids: Sequence[str] | None,
    texts: Sequence[str] | None,
    metadata: Sequence[Mapping[str, Any]] | None,
) -> Columns:
    """The columns of `count` passages, whose ids are "0", "1", … where none are given.

    Raises:
        InvalidInput: a column has another length (`CorpusError`: an id is unusable).
    """
    for name, column in (("ids", ids), ("texts", texts), ("metadata", metadata)):
        if column is not None and len(column) != count:
            raise InvalidInput(f"{len(column)} {name} do not fit {count} passages")
    if ids is None:
        return Columns([str(number) for number in range(count)], texts, metadata)
    check_ids(ids)
    return Columns(list(ids), texts, metadata)


def check_ids(ids: Sequence[str]) -> None:
    """Raise CorpusError where an id is not a non-empty string, or comes twice."""
    first: dict[str, int] = {}
    for number, one in enumerate(ids):
        if not isinstance(one, str) or not one:
            raise CorpusError(f"id {one!r} of passage {number} is not a non-empty string")
        if one in first:
            raise CorpusError(f"id {one!r} is given twice: to passages {first[one]} and {number}")
        first[one] = number
