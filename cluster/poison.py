"""Finding the passages that make a model, or its process, fail: by halves. Pure.

A unit that fails is cut in two, each half is tried, and a half that fails is cut again. A passage
that fails alone is tried once more before it is blamed, for its machine may have been lost. Where
no passage fails alone, none is to blame: then it is their number, or chance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

BLAMED_AFTER = 2
Rows = tuple[int, ...]


class PoisonSearch:
    """The search in one unit: says which rows to try next, and is told how they fared.

    Args:
        rows: of the passages that failed together.
    """

    def __init__(self, rows: Sequence[int]) -> None:
        self._first = tuple(rows)
        self._open: set[Rows] = set()
        self._failures: Counter[Rows] = Counter()
        self._poisoned: list[int] = []

    def begin(self) -> list[Rows]:
        """The first rows to try."""
        return self._halves(self._first)

    def passed(self, rows: Rows) -> list[Rows]:
        """They are innocent; nothing more to try of them."""
        self._open.discard(rows)
        return []

    def failed(self, rows: Rows) -> list[Rows]:
        """They are not: what to try next."""
        self._open.discard(rows)
        if len(rows) > 1:
            return self._halves(rows)
        self._failures[rows] += 1
        if self._failures[rows] < BLAMED_AFTER:
            self._open.add(rows)
            return [rows]
        self._poisoned.extend(rows)
        return []

    @property
    def finished(self) -> bool:
        """Whether nothing is being tried any more."""
        return not self._open

    @property
    def poisoned(self) -> Rows:
        """The rows that fail alone, ascending."""
        return tuple(sorted(self._poisoned))

    def _halves(self, rows: Rows) -> list[Rows]:
        middle = (len(rows) + 1) // 2
        parts = [part for part in (rows[:middle], rows[middle:]) if part]
        self._open.update(parts)
        return parts
