"""What every importer hands over: an index of another engine, opened and checked, not yet read.

All of them are PLAID's: centroids, residual buckets, and per chunk of passages the codes, packed
residuals and lengths. Shapes: N passages, T tokens, C centroids, D dimensions, B = D·bits/8.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from colbert_core.errors import IndexCorrupt, InvalidInput
from colbert_core.types import F32, I64, MAX_DIM, U8, AnyArray

BITS = (1, 2, 4)
BATCH_TOKENS = 1 << 16

Rows = Callable[[], Iterator[tuple[int, Mapping[str, Any]]]]


@dataclass(frozen=True)
class Chunk:
    """The tokens of consecutive passages: codes [T], Stanford-packed residuals uint8 [T, B]."""

    codes_T: AnyArray
    residuals_TB: U8


@dataclass(frozen=True)
class Source:
    """An index of another engine.

    Attributes:
        path: its folder.
        format: "stanford", "fast-plaid" or "next-plaid".
        bits: of a residual's dimension: 1, 2 or 4.
        centroids_CD: float16 or float32 [C, D], as stored.
        cutoffs: float32 [2^bits − 1], borders between the residual buckets.
        weights: float32 [2^bits], what the buckets decode to.
        doclens: int64 arrays, the tokens of each passage, one array a chunk.
        open_chunk: maps the tokens of a chunk.
        ivf: their postings (passages end to end, how many each centroid has), or None.
        stated: counts that its metadata states, to be compared: passages, tokens, centroids.
        settings: what is known of the model: checkpoint, query_maxlen, doc_maxlen, …; or empty.
        metadata: gives (passage, its metadata), ascending, for those that have any; or None.
        notes: what was found odd and how it was taken.
    """

    path: Path
    format: str
    bits: int
    centroids_CD: AnyArray
    cutoffs: F32
    weights: F32
    doclens: Sequence[I64]
    open_chunk: Callable[[int], Chunk]
    ivf: tuple[AnyArray, AnyArray] | None
    stated: Mapping[str, int]
    settings: Mapping[str, Any] = field(default_factory=dict)
    metadata: Rows | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def dim(self) -> int:
        return int(self.centroids_CD.shape[1])

    @property
    def all_doclens(self) -> I64:
        """The tokens of every passage, int64 [N]."""
        return np.concatenate([np.zeros(0, np.int64), *self.doclens])

    def check(self) -> None:
        """Refuse what cannot be imported, before anything is read of the passages.

        Raises:
            InvalidInput: bits or dimensions that the codec does not have.
            IndexCorrupt: the parts do not fit each other.
        """
        if self.bits not in BITS:
            raise InvalidInput(
                f"{self.path}: it has {self.bits} bits a dimension; indexes of 1, 2 and 4 bits can "
                "be imported. Export its vectors with its own engine and build an index of them"
            )
        centroids, levels = self.centroids_CD, 1 << self.bits
        if centroids.ndim != 2 or not len(centroids) or centroids.dtype.kind != "f":
            self.fail(f"its centroids are {centroids.dtype} {list(centroids.shape)}")
        if self.dim % 8 or not 8 <= self.dim <= MAX_DIM:
            raise InvalidInput(
                f"{self.path}: its vectors have {self.dim} dimensions; a multiple of 8 from 8 to "
                f"{MAX_DIM} can be imported"
            )
        if self.weights.shape != (levels,) or self.cutoffs.shape != (levels - 1,):
            self.fail(
                f"{self.weights.size} bucket weights and {self.cutoffs.size} cutoffs do not fit "
                f"{self.bits} bits"
            )
        if not all(np.isfinite(a).all() for a in (centroids, self.weights, self.cutoffs)):
            self.fail("its centroids or buckets hold values that are not finite")
        if not np.abs(centroids.astype(np.float32)).max() <= 1e3:
            self.fail("its centroids are far from unit length")
        if not max(np.abs(self.weights).max(), np.abs(self.cutoffs).max()) <= 1e3:
            self.fail("its buckets are far from what parts of unit vectors differ by")
        if (np.diff(self.cutoffs) < 0).any():
            self.fail("its bucket cutoffs do not rise")
        if any((part < 0).any() for part in self.doclens):
            self.fail("a passage has a negative length")
        if not sum(int(part.sum()) for part in self.doclens):
            self.fail("it holds no tokens")

    def batches(self) -> Iterator[tuple[int, I64, AnyArray, U8]]:
        """Passages in order, of at most `BATCH_TOKENS` tokens unless one alone has more.

        Yields:
            number of the first passage, lengths int64 [n], codes [t], residuals uint8 [t, B].

        Raises:
            IndexCorrupt: a chunk does not have the tokens that its lengths add up to.
        """
        first = 0
        for number, lengths in enumerate(self.doclens):
            chunk = self.open_chunk(number)
            ends = np.concatenate([[0], np.cumsum(lengths)])
            shape = (int(ends[-1]), self.dim * self.bits // 8)
            if chunk.codes_T.shape != shape[:1] or chunk.residuals_TB.shape != shape:
                self.fail(
                    f"chunk {number} has lengths of {shape[0]:,} tokens, codes "
                    f"{list(chunk.codes_T.shape)} and residuals {list(chunk.residuals_TB.shape)}, "
                    f"which should be {list(shape)}"
                )
            if chunk.codes_T.dtype.kind not in "iu" or chunk.residuals_TB.dtype != np.uint8:
                self.fail(f"chunk {number} has codes or residuals of a wrong type")
            for start, stop in _cuts(ends, BATCH_TOKENS):
                tokens = slice(int(ends[start]), int(ends[stop]))
                yield (
                    first + start,
                    lengths[start:stop],
                    chunk.codes_T[tokens],
                    chunk.residuals_TB[tokens],
                )
            first += len(lengths)

    def fail(self, what: str) -> None:
        """Raise `IndexCorrupt` for this index."""
        raise IndexCorrupt(f"{self.path}: {what}; it cannot be imported")


def _cuts(ends: I64, longest: int) -> Iterator[tuple[int, int]]:
    """Runs of passages of at most `longest` tokens, or one passage that has more."""
    start, count = 0, len(ends) - 1
    while start < count:
        stop = int(np.searchsorted(ends, ends[start] + longest, side="right")) - 1
        stop = min(max(stop, start + 1), count)
        yield start, stop
        start = stop


def read_json(path: Path) -> Any:
    """The contents of a JSON file of an index.

    Raises:
        IndexCorrupt: it is missing or damaged.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise IndexCorrupt(f"{path}: it cannot be read: {error}") from error


def read_doclens(path: Path) -> I64:
    """A `doclens.N.json`: the tokens of each passage, int64.

    Raises:
        IndexCorrupt: it is not a list of counts.
    """
    raw = read_json(path)
    if not isinstance(raw, list) or not all(
        type(n) is int and 0 <= n < 1 << 31 for n in raw
    ):  # True is no count
        raise IndexCorrupt(f"{path}: it is not a list of token counts")
    return np.array(raw, np.int64)


def read_count(about: Any, key: str, path: Path) -> int:
    """A count of a metadata file.

    Raises:
        IndexCorrupt: it is missing, or no count.
    """
    value = about.get(key) if isinstance(about, dict) else None
    if type(value) is not int or value < 0:
        raise IndexCorrupt(f"{path}: `{key}` is {value!r}, which is not a count")
    return value


def stated_counts(about: Mapping[str, Any], **keys: str) -> dict[str, int]:
    """The counts that a metadata file states, by our names; those that it lacks are left out."""
    return {ours: about[theirs] for ours, theirs in keys.items() if type(about.get(theirs)) is int}
