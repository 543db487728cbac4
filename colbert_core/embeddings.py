"""The token vectors that an index is built from: checked once, then read in batches.

Shapes: N passages, T tokens, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np

from colbert_core.errors import CorpusError, InvalidInput
from colbert_core.types import F32, I32, I64, AnyArray

BATCH_BYTES = 1 << 23
"""Of float32 vectors that are worked on at once; what a batch becomes is a few times as much."""
NORM_TOLERANCE = 0.02


@dataclass(frozen=True)
class Embeddings:
    """Token vectors that were checked, and can be read again.

    Attributes:
        source: anything that gives the passages' [tokens, D] arrays each time it is iterated, or
            one array [T, D] of all their tokens.
        doclens_N: int32 [N], tokens of each passage, at least one.
        dim: D.
        normalize: whether vectors are scaled to unit length as they are read.
    """

    source: Iterable[AnyArray] | AnyArray
    doclens_N: I32
    dim: int
    normalize: bool

    @property
    def tokens(self) -> int:
        """T."""
        return int(self.doclens_N.sum(dtype=np.int64))

    def batches(self, numbers_N: Sequence[int] | I64) -> list[Sequence[int] | I64]:
        """Passages, by ascending number, in runs of about `BATCH_BYTES`, none of them empty."""
        ends_N = np.cumsum(self.doclens_N[numbers_N], dtype=np.int64)
        batch_N = (ends_N - 1) // max(1, BATCH_BYTES // (4 * self.dim))
        cuts = np.flatnonzero(np.diff(batch_N, prepend=-1, append=np.iinfo(np.int64).max))
        return [numbers_N[a:b] for a, b in pairwise(cuts.tolist())]

    def read(self, batches: Iterable[Sequence[int] | I64]) -> Iterator[F32]:
        """For each batch of passages, ascending throughout, its unit vectors float32 [T, D]."""
        for rows_TD in self._from_matrix(batches) if self._is_matrix else self._one_by_one(batches):
            if self.normalize:
                yield unit_vectors(rows_TD)
            else:
                yield np.ascontiguousarray(rows_TD, np.float32)

    @property
    def _is_matrix(self) -> bool:
        return isinstance(self.source, np.ndarray) and self.source.ndim == 2

    def _from_matrix(self, batches: Iterable[Sequence[int] | I64]) -> Iterator[AnyArray]:
        assert isinstance(self.source, np.ndarray)
        ends_N = np.cumsum(self.doclens_N, dtype=np.int64)
        for numbers in batches:
            last = ends_N[numbers]
            first = last - self.doclens_N[numbers]
            if last[-1] - first[0] == (last - first).sum():
                yield self.source[first[0] : last[-1]]
            else:
                yield np.concatenate([self.source[a:b] for a, b in zip(first, last, strict=True)])

    def _one_by_one(self, batches: Iterable[Sequence[int] | I64]) -> Iterator[AnyArray]:
        passages = enumerate(self.source)
        for numbers in batches:
            wanted = iter(numbers)
            number = next(wanted)
            found = []
            for at, one in passages:
                if at < number:
                    continue
                if np.shape(one) != (self.doclens_N[at], self.dim):
                    raise CorpusError(f"passage {at} is not what it was at the first reading")
                found.append(one)
                if (number := next(wanted, -1)) < 0:
                    break
            if number >= 0:
                raise CorpusError(f"passage {number} is gone; it was there at the first reading")
            yield np.concatenate(found)


def unit_vectors(rows_TD: AnyArray) -> F32:
    """Any floats [T, D] → float32 [T, D] at unit length; zeros stay zeros."""
    vectors_TD, norms_T = with_norms(rows_TD)
    inverse_T1 = np.reciprocal(np.maximum(norms_T, 1e-12))[:, None]
    if np.may_share_memory(vectors_TD, rows_TD):  # the caller's own array
        return vectors_TD * inverse_T1
    vectors_TD *= inverse_T1
    return vectors_TD


def with_norms(rows_TD: AnyArray) -> tuple[F32, F32]:
    """Any floats [T, D] → float32 [T, D], and their lengths float32 [T]."""
    vectors_TD: F32 = np.ascontiguousarray(rows_TD, np.float32)
    norms_T: F32 = np.einsum("td,td->t", vectors_TD, vectors_TD)
    np.sqrt(norms_T, out=norms_T)
    return vectors_TD, norms_T


def check_embeddings(
    embeddings: Iterable[AnyArray] | AnyArray,
    doclens: Sequence[int] | AnyArray | None,
    normalize: bool,
    check_dim: Callable[[int], None],
    spool: Path,
    on_passage: Callable[[int], None],
) -> Embeddings:
    """Read every vector once.

    Args:
        embeddings: see `Index.build`; what can be iterated only once is written to `spool`, fp16.
        doclens: tokens of each passage, where `embeddings` is one array of all tokens.
        normalize: whether vectors may have any length.
        check_dim: called with the number of dimensions, before anything else is looked at.
        spool: an empty folder.
        on_passage: called now and then with the number of a passage.

    Raises:
        InvalidInput: lengths and vectors do not fit (`CorpusError`: a passage is unusable).
    """
    if doclens is not None:
        return _check_matrix(embeddings, doclens, normalize, check_dim, on_passage)
    once = iter(embeddings) is embeddings
    path = spool / "vectors.fp16"
    with path.open("wb") if once else nullcontext() as file:
        read = _Passages(normalize, check_dim, on_passage, file)
        for one in embeddings:
            read.add(one)
        read.check_batch()
    if not read.lengths:
        raise CorpusError("there are no passages; an index needs at least one")
    doclens_N = np.array(read.lengths, np.int32)
    if once:
        matrix_TD = np.memmap(path, np.float16, "r", shape=(sum(read.lengths), read.dim))
        return Embeddings(matrix_TD, doclens_N, read.dim, normalize)
    return Embeddings(embeddings, doclens_N, read.dim, normalize)


class _Passages:
    """Passages as they come: checked a batch at a time, and written to `file` if there is one."""

    def __init__(
        self,
        normalize: bool,
        check_dim: Callable[[int], None],
        on_passage: Callable[[int], None],
        file: IO[bytes] | None,
    ) -> None:
        self.lengths: list[int] = []
        self.dim = 0
        self._normalize, self._check_dim = normalize, check_dim
        self._on_passage, self._file = on_passage, file
        self._batch: list[AnyArray] = []
        self._waiting = 0  # numbers in the batch

    def add(self, one: AnyArray) -> None:
        rows_TD = _as_passage(one, len(self.lengths), self.dim)
        if not self.dim:
            self.dim = rows_TD.shape[1]
            self._check_dim(self.dim)
        self._batch.append(rows_TD)
        self.lengths.append(len(rows_TD))
        self._waiting += rows_TD.size
        if self._waiting * 4 >= BATCH_BYTES:
            self.check_batch()

    def check_batch(self) -> None:
        if not self._batch:
            return
        first = len(self.lengths) - len(self._batch)
        rows_TD = np.concatenate(self._batch)
        _check_norms(rows_TD, first, self.lengths[first:], self._normalize)
        if self._file:
            kept_TD = unit_vectors(rows_TD) if self._normalize else rows_TD
            kept_TD.astype(np.float16).tofile(self._file)
        self._on_passage(first)
        self._batch.clear()
        self._waiting = 0


def _check_matrix(
    matrix_TD: Any,
    doclens: Sequence[int] | AnyArray,
    normalize: bool,
    check_dim: Callable[[int], None],
    on_passage: Callable[[int], None],
) -> Embeddings:
    if not isinstance(matrix_TD, np.ndarray) or matrix_TD.ndim != 2:
        raise InvalidInput("with doclens, embeddings must be one numpy array [tokens, dim]")
    check_dim(matrix_TD.shape[1])
    doclens_N = np.array(doclens, np.int64)
    if not len(doclens_N):
        raise CorpusError("there are no passages; an index needs at least one")
    if doclens_N.min() < 1:
        raise CorpusError(
            f"passage {int(doclens_N.argmin())} has {doclens_N.min()} tokens; 1 or more are needed"
        )
    if doclens_N.sum() != len(matrix_TD):
        raise InvalidInput(
            f"doclens add up to {doclens_N.sum()} and embeddings have {len(matrix_TD)} tokens"
        )
    found = Embeddings(matrix_TD, doclens_N.astype(np.int32), matrix_TD.shape[1], normalize)
    batches = found.batches(np.arange(len(doclens_N)))
    for numbers, rows_TD in zip(batches, found._from_matrix(batches), strict=True):
        first = int(numbers[0])
        _check_norms(_as_floats(rows_TD, first), first, doclens_N[numbers], normalize)
        on_passage(first)
    return found


def _as_passage(one: Any, number: int, dim: int) -> AnyArray:
    """One passage as an array [tokens, D] of floats, or an error that names it."""
    rows_TD = _as_floats(one, number)
    if rows_TD.ndim != 2 or not len(rows_TD):
        raise CorpusError(
            f"passage {number} has shape {rows_TD.shape}; give [tokens, dim] with tokens > 0"
        )
    if dim and rows_TD.shape[1] != dim:
        raise CorpusError(
            f"passage {number} has {rows_TD.shape[1]} dimensions and the ones before it {dim}"
        )
    return rows_TD


def _as_floats(one: Any, number: int) -> AnyArray:
    try:
        array = np.asarray(one)
        return array if array.dtype.kind == "f" else array.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise CorpusError(f"passage {number} is not an array of numbers: {error}") from error


def _check_norms(
    rows_TD: AnyArray, first: int, doclens_N: Sequence[int] | AnyArray, normalize: bool
) -> None:
    """Refuse vectors that are not finite, or not of unit length; an error names the passage."""
    _, norms_T = with_norms(rows_TD)

    def place(token: int) -> tuple[int, int]:
        ends_N = np.cumsum(doclens_N)
        passage = int(np.searchsorted(ends_N, token, side="right"))
        return first + passage, token - int(ends_N[passage] - doclens_N[passage])

    if not np.isfinite(norms_T).all():
        number, _ = place(int(np.isfinite(norms_T).argmin()))
        raise CorpusError(f"passage {number} holds NaN or infinity; check the model's output")
    wrong_T = np.abs(norms_T - 1) > NORM_TOLERANCE
    if not normalize and wrong_T.any():
        worst = int(wrong_T.argmax())
        number, token = place(worst)
        raise CorpusError(
            f"passage {number}, token {token}: the vector's length is {norms_T[worst]:.4g} and "
            "must be 1; normalise the vectors, or pass normalize=True"
        )
