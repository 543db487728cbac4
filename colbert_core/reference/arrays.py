"""The arrays of one shard: checked, and read."""

from __future__ import annotations

import numpy as np

from colbert_core.packed_ints import SLACK, PackedInts
from colbert_core.posting_lists import decode_list
from colbert_core.reference.arithmetic import inverse_norms, quantise_levels, unpack_residuals
from colbert_core.reference.checks import (
    MAX_MAGNITUDE,
    check_array,
    check_ends,
    corrupt,
    require,
)
from colbert_core.reference.contexts import context_bytes, decode_contexts, split_contexts
from colbert_core.reference.table import CentroidTable
from colbert_core.reference.trellis import WINDOWS, windows_of
from colbert_core.types import F32, I64, U8

GRID_TOLERANCE = np.float32(1e-6)  # of the largest level: a float's rounding


class ShardArrays:
    """The arrays of one shard. Immutable and thread-safe.

    Args:
        table: the global centroids.
        passages: N.
        codes: uint8, the centroid of every token [T], packed (`packed_ints.py`).
        residuals_TB: uint8 [T, D·bits/8].
        scales_T: uint8 [T], index into `alpha` and `beta`.
        contexts_NX: uint8 [N, X], what the tokens of each passage share (`contexts.py`), or None.
        offsets: uint8, the first token of every passage, then T [N+1], packed.
        posting_offsets: uint8, the first byte of every centroid's list, then their end [C+1],
            packed.
        postings: uint8, the passages that hold a centroid, lists of `posting_lists.py`.
        bits: 1, 2, 3 or 4.
        levels: float32 [64], and the residuals are bits along the trellis (`trellis.py`); or
            [2^bits], and they are indices in planes.
        alpha, beta: float32 [256]. A token decodes to alpha[s]·centroid + beta[s]·level, and its
            passage's context on top.
        centroids_f32: float32 [C, D] to decode with instead of the table's int8, or None.
        normalize: decoded vectors are divided by their length.

    Raises:
        ValueError: an array has the wrong dtype, shape or value; the message names it.

    The large arrays are not read here. A code, posting or offset that cannot be is found when a
    search meets it: RuntimeError, which says to run `tartan index verify`.
    """

    def __init__(
        self,
        table: CentroidTable,
        passages: int,
        codes: U8,
        residuals_TB: U8,
        scales_T: U8,
        contexts_NX: U8 | None,
        offsets: U8,
        posting_offsets: U8,
        postings: U8,
        bits: int,
        levels: F32,
        alpha: F32,
        beta: F32,
        centroids_f32: F32 | None,
        normalize: bool,
    ) -> None:
        self.dim = table.dim
        self.tokens = len(scales_T)
        self.passages = passages
        require(0 <= passages < 1 << 32, f"passages {passages} must lie between 0 and 2^32")
        _check_stored(codes, offsets, posting_offsets, postings)
        _check_residuals(residuals_TB, scales_T, self.dim, bits)
        end, centroids = len(postings) - SLACK, table.centroids
        self.codes_T = PackedInts("codes", codes, self.tokens, centroids - 1)
        self.offsets_N1 = PackedInts("offsets", offsets, passages + 1, self.tokens)
        self.lists_C1 = PackedInts("posting_offsets", posting_offsets, centroids + 1, end)
        check_ends("offsets", self.offsets_N1, self.tokens)
        check_ends("posting_offsets", self.lists_C1, end)
        self.trellis = len(levels) == WINDOWS
        _check_decoding(table, bits, levels, alpha, beta, centroids_f32)
        if contexts_NX is not None:
            require(
                self.trellis and not normalize,
                "contexts need levels of a trellis and vectors that are not normalised",
            )
            _check_contexts(contexts_NX, (passages, context_bytes(self.dim, bits)))
        self.table, self.residuals_TB, self.scales_T = table, residuals_TB, scales_T
        self.contexts_NX = contexts_NX
        self.postings, self.bits, self.levels = postings, bits, levels
        self.alpha, self.beta, self.centroids_f32 = alpha, beta, centroids_f32
        self.normalize = normalize
        self.levels_i8, self.level_step = quantise_levels(levels)
        self.on_grid = scores_are_integers(levels, centroids_f32, normalize)

    def decode(self, first_token: int, count: int) -> F32:
        """The vectors, float32 [count, D], of consecutive tokens."""
        require(
            first_token >= 0 and count >= 0 and first_token + count <= self.tokens,
            f"tokens {first_token} to {first_token + count} lie outside the shard's {self.tokens}",
        )
        return self._decode(first_token, first_token + count)

    def _decode(self, start: int, end: int) -> F32:
        codes = self._codes(start, end)
        if self.centroids_f32 is not None:
            centroids_TD = self.centroids_f32[codes]
        else:
            table = self.table
            centroids_TD = table.codes_CD[codes].astype(np.float32) * table.scales_C[codes][:, None]
        unpack = windows_of if self.trellis else unpack_residuals
        indices_TD = unpack(self.residuals_TB[start:end], self.bits, self.dim)
        scales_T1 = self.scales_T[start:end, None]
        vectors_TD = (
            self.alpha[scales_T1] * centroids_TD + self.beta[scales_T1] * self.levels[indices_TD]
        )
        if self.contexts_NX is not None:
            vectors_TD = vectors_TD + self._contexts_of_tokens(start, end)
        if self.normalize:
            vectors_TD = vectors_TD * inverse_norms(vectors_TD)
        return vectors_TD

    def _contexts_of_tokens(self, start: int, end: int) -> F32:
        """The context of each token's passage, float32 [T, D]."""
        offsets_N1 = self.offsets_N1.read(0, self.passages + 1)
        pids_T = np.searchsorted(offsets_N1, np.arange(start, end), side="right") - 1
        pids, place_T = np.unique(pids_T, return_inverse=True)
        decoded = decode_contexts(self._contexts(pids), self.bits, self.levels, self.dim)
        repeated_TD: F32 = decoded[place_T]
        return repeated_TD

    # ------------------------------------------------------------ what may be corrupt

    def _contexts(self, pids: I64) -> U8:
        assert self.contexts_NX is not None
        contexts_MX: U8 = self.contexts_NX[pids]
        scales_M = split_contexts(contexts_MX)[1]
        bad = np.flatnonzero(~(np.abs(scales_M) <= MAX_MAGNITUDE))
        if len(bad):
            raise corrupt(f"the context of passage {pids[bad[0]]} has a scale beyond ±1e6")
        return contexts_MX

    def _codes(self, start: int, end: int) -> I64:
        codes = self.codes_T.read(start, end)
        if len(codes) and int(codes.max()) >= self.table.centroids:
            first = start + int(np.argmax(codes >= self.table.centroids))
            raise corrupt(
                f"token {first} has centroid {int(codes[first - start])} of {self.table.centroids}"
            )
        return codes

    def _span(self, pid: int) -> tuple[int, int]:
        start, end = self.offsets_N1[pid], self.offsets_N1[pid + 1]
        if not start < end <= self.tokens:
            raise corrupt(f"passage {pid} spans tokens {start} to {end} of {self.tokens}")
        return start, end

    def _posting_list(self, centroid: int) -> I64:
        start, end = self.lists_C1[centroid], self.lists_C1[centroid + 1]
        try:
            return decode_list(self.postings[:-SLACK], start, end, self.passages)
        except ValueError as error:
            raise corrupt(f"the postings of centroid {centroid} {error}") from error

    # ------------------------------------------------------------ arguments

    def _allowed(self, allowed_N: U8 | None) -> U8 | None:
        if allowed_N is not None:
            check_array("allowed_N", allowed_N, 1, "uint8")
            require(
                len(allowed_N) == self.passages,
                f"allowed_N has {len(allowed_N)} entries for {self.passages} passages",
            )
        return allowed_N

    def _all_passages(self, allowed: U8 | None) -> I64:
        return np.arange(self.passages) if allowed is None else np.flatnonzero(allowed)

    def _check_pid(self, pid: int) -> None:
        require(0 <= pid < self.passages, f"passage {pid} is not one of {self.passages}")


def _check_stored(codes: U8, offsets: U8, posting_offsets: U8, postings: U8) -> None:
    for name, packed in (
        ("codes", codes),
        ("offsets", offsets),
        ("posting_offsets", posting_offsets),
        ("postings", postings),
    ):
        check_array(name, packed, 1, "uint8")
    require(
        len(postings) >= SLACK,
        f"postings has {len(postings)} bytes, expected at least {SLACK}",
    )


def _check_residuals(residuals_TB: U8, scales_T: U8, dim: int, bits: int) -> None:
    check_array("residuals_TB", residuals_TB, 2, "uint8")
    check_array("scales_T", scales_T, 1, "uint8")
    require(bits in (1, 2, 3, 4), f"bits {bits} must be 1, 2, 3 or 4")
    expected = len(scales_T), dim * bits // 8
    require(
        residuals_TB.shape == expected,
        f"residuals_TB has shape {residuals_TB.shape}, expected {expected}",
    )


def _check_contexts(contexts_NX: U8, expected: tuple[int, int]) -> None:
    check_array("contexts_NX", contexts_NX, 2, "uint8")
    require(
        contexts_NX.shape == expected,
        f"contexts_NX has shape {contexts_NX.shape}, expected {expected}",
    )


def _check_decoding(
    table: CentroidTable, bits: int, levels: F32, alpha: F32, beta: F32, centroids_f32: F32 | None
) -> None:
    for name, values, size in (
        ("levels", levels, WINDOWS if len(levels) == WINDOWS else 1 << bits),
        ("alpha", alpha, 256),
        ("beta", beta, 256),
    ):
        check_array(name, values, 1, "float32")
        require(len(values) == size, f"{name} has {len(values)} entries, expected {size}")
        require(bool(np.all(np.abs(values) <= MAX_MAGNITUDE)), f"{name} must lie within ±1e6")
    if centroids_f32 is not None:
        check_array("centroids_f32", centroids_f32, 2, "float32")
        require(
            centroids_f32.shape == table.codes_CD.shape,
            f"centroids_f32 has shape {centroids_f32.shape}, expected {table.codes_CD.shape}",
        )


def scores_are_integers(levels: F32, centroids_f32: F32 | None, normalize: bool) -> bool:
    """Whether decoded vectors are sums of int8 vectors, but for a float's rounding: centroids as in
    the table, and levels of a trellis that are int8 multiples of one step."""
    levels_i8, step = quantise_levels(levels)
    off_grid = np.abs(levels - levels_i8 * step).max()
    return (
        len(levels) == WINDOWS
        and centroids_f32 is None
        and not normalize
        and bool(off_grid <= GRID_TOLERANCE * np.abs(levels).max())
    )
