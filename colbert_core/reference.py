"""The kernels in plain numpy: what the native ones must compute, bit for bit.

Shapes: L query tokens, D dimensions, C centroids, P probes per query token, T passage tokens,
N passages, B packed residual bytes per token, M passages asked for, K hits.

Integers are exact, so their order does not matter. Floats are float32, every product is rounded
before it is added (no fused multiply-add), and every sum has a stated order; where an order is
stated, native and reference agree on every bit.

Everything here happens in the codec's rotated space; a query arrives rotated.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from colbert_core.types import F32, I8, I32, I64, U8, AnyArray

MAX_MAGNITUDE = np.float32(1e6)
"""Largest |value| of a query, scale or level: keeps every score finite, whatever the data."""

FINEST_ADDEND = 2**20
"""The largest addend of a candidate's score in integer units: 1024 of them fit in 31 bits."""

SMALLEST_NORMAL = np.float32(np.finfo(np.float32).tiny)
SMALLEST_RANGE = np.float32(1e-30)  # of probe scores; below, all gains count as equal
LARGEST_PROBE_SCORE = np.float32(1e30)
BATCH = 64  # passages between two looks at the clock


# ---------------------------------------------------------------- queries and centroid scores


def quantise_query(Q_LD: F32) -> tuple[I8, F32]:
    """float32 [L, D] → int8 [L, D] in ±127 and float32 [L] scales: q ≈ q_i8 · scale.

    A token whose scale would be subnormal becomes zeros with scale 0.
    """
    scales_L = np.abs(Q_LD).max(axis=1) / np.float32(127)
    scales_L = np.where(scales_L < SMALLEST_NORMAL, np.float32(0), scales_L)
    divisor_L1 = np.where(scales_L == 0, np.float32(1), scales_L)[:, None]
    rounded_LD = np.clip(np.rint(Q_LD / divisor_L1), -127, 127)
    rounded_LD[scales_L == 0] = 0
    return rounded_LD.astype(np.int8), scales_L


def integer_dots(rows_RD: I8, queries_LD: I8) -> F32:
    """Exact int8 dot products as float32 [R, L]; |dot| ≤ 128·127·1024 < 2^24, so all are exact."""
    dots_RL: F32 = (rows_RD.astype(np.float32) @ queries_LD.astype(np.float32).T).astype(np.float32)
    return dots_RL


def centroid_scores(codes_RD: I8, scales_R: F32, q_LD: I8, q_scales_L: F32) -> F32:
    """float32 [R, L]: dot · (q_scale · c_scale)."""
    result_RL: F32 = integer_dots(codes_RD, q_LD) * (q_scales_L[None, :] * scales_R[:, None])
    return result_RL


class CentroidTable:
    """The global centroids as int8 with one scale each. Immutable and thread-safe.

    Args:
        codes_CD: int8 [C, D], C-contiguous; D a multiple of 8, at most 1024; C at least 1.
        scales_C: float32 [C], each in [0, 1e6].

    Raises:
        ValueError: an array has the wrong dtype, shape or value; the message names it.
    """

    def __init__(self, codes_CD: I8, scales_C: F32) -> None:
        _check_array("codes_CD", codes_CD, 2, "int8")
        _check_array("scales_C", scales_C, 1, "float32")
        self.centroids, self.dim = codes_CD.shape
        _require(self.centroids >= 1, "codes_CD has no centroids; at least 1 is needed")
        _require(
            8 <= self.dim <= 1024 and self.dim % 8 == 0,
            f"dimension {self.dim} must be a multiple of 8 from 8 to 1024",
        )
        _require(
            len(scales_C) == self.centroids,
            f"scales_C has {len(scales_C)} entries for {self.centroids} centroids",
        )
        _require(
            bool(np.all((scales_C >= 0) & (scales_C <= MAX_MAGNITUDE))),
            "scales_C must lie in [0, 1e6]",
        )
        self.codes_CD, self.scales_C = codes_CD, scales_C

    def probe(self, Q_LD: F32, nprobe: int, threads: int = 1) -> tuple[I32, F32]:
        """The best centroids of every query token.

        Args:
            Q_LD: float32 [L, D], rotated; L from 1 to 1024, |values| ≤ 1e6.
            nprobe: centroids per query token, at least 1; capped at C.
            threads: at least 1; the native kernel splits the table, the result is the same.

        Returns:
            ids int32 [L, P] and scores float32 [L, P], P = min(nprobe, C): score descending, ties
            by smaller id.
        """
        _check_query(Q_LD, self.dim)
        _require(nprobe >= 1, f"nprobe {nprobe} must be at least 1")
        _require(threads >= 1, f"threads {threads} must be at least 1")
        q_LD, q_scales_L = quantise_query(Q_LD)
        S_LC = centroid_scores(self.codes_CD, self.scales_C, q_LD, q_scales_L).T
        ids_LP = np.argsort(-S_LC, axis=1, kind="stable")[:, : min(nprobe, self.centroids)]
        scores_LP = np.take_along_axis(S_LC, ids_LP, axis=1)
        return ids_LP.astype(np.int32), np.ascontiguousarray(scores_LP)


# ---------------------------------------------------------------- stored tokens


def unpack_residuals(packed_TB: U8, bits: int, dim: int) -> U8:
    """Planes of uint8 [T, B] → indices uint8 [T, D].

    In a w-bit plane of n = D·w/8 bytes, field j (bits j·w …) of byte i is dimension i + j·n.
    """
    indices_TD = np.zeros((len(packed_TB), dim), np.uint8)
    first = 0
    for width, shift in ((2, 0), (1, 2)) if bits == 3 else ((bits, 0),):
        n = dim * width // 8
        plane_Tn = packed_TB[:, first : first + n]
        for j in range(8 // width):
            field_Tn = (plane_Tn >> (j * width)) & ((1 << width) - 1)
            indices_TD[:, j * n : (j + 1) * n] |= field_Tn << shift
        first += n
    return indices_TD


def quantise_levels(levels: F32) -> tuple[I8, np.float32]:
    """float32 levels → int8 and a step, the largest level at ±127: level ≈ level_i8 · step."""
    step = np.float32(np.abs(levels).max() / np.float32(127))
    if step < SMALLEST_NORMAL:
        return np.zeros(len(levels), np.int8), np.float32(0)
    return np.clip(np.rint(levels / step), -127, 127).astype(np.int8), step


def inverse_norms(vectors_TD: F32) -> F32:
    """1/‖v‖ as float32 [T, 1], 0 for a zero vector.

    The squares are summed in 16 strided parts (d mod 16), each by ascending d, and the parts are
    added in halves: 8 + 8, 4 + 4, 2 + 2, 1 + 1.
    """
    tokens, dim = vectors_TD.shape
    padded_TD = np.zeros((tokens, -(-dim // 16) * 16), np.float32)
    padded_TD[:, :dim] = vectors_TD * vectors_TD
    parts_TW = np.zeros((tokens, 16), np.float32)
    for chunk_TW in padded_TD.reshape(tokens, -1, 16).transpose(1, 0, 2):
        parts_TW = parts_TW + chunk_TW
    for half in (8, 4, 2, 1):
        parts_TW = parts_TW[:, :half] + parts_TW[:, half : 2 * half]
    norms_T1 = np.sqrt(parts_TW)
    with np.errstate(divide="ignore"):
        return np.where(norms_T1 > 0, np.float32(1) / norms_T1, np.float32(0))


def precise_dots(vectors_TD: F32, Q_LD: F32) -> F32:
    """float32 [T, L]: dot products summed by ascending d."""
    dots_TL = np.zeros((len(vectors_TD), len(Q_LD)), np.float32)
    for d in range(Q_LD.shape[1]):
        dots_TL += vectors_TD[:, d, None] * Q_LD[None, :, d]
    return dots_TL


def sum_over_query(best_L: F32) -> np.float32:
    """The sum by ascending query token."""
    total = np.float32(0)
    for best in best_L:
        total = total + best
    return total


# ---------------------------------------------------------------- one shard


class Shard:
    """The arrays of one shard and the search over them. Immutable and thread-safe.

    Args:
        table: the global centroids.
        codes_T: uint16 or uint32 [T], the centroid of every token.
        residuals_TB: uint8 [T, D·bits/8], packed planes.
        scales_T: uint8 [T], index into `alpha` and `beta`.
        offsets_N1: uint64 [N+1], first token of every passage, then T.
        posting_offsets_C1: uint64 [C+1], first posting of every centroid, then the number of them.
        postings: uint16 or uint32, the passages that hold a centroid, ascending per centroid.
        bits: 1, 2, 3 or 4.
        levels: float32 [2^bits].
        alpha, beta: float32 [256]. A token decodes to alpha[s]·centroid + beta[s]·levels[index].
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
        codes_T: AnyArray,
        residuals_TB: U8,
        scales_T: U8,
        offsets_N1: AnyArray,
        posting_offsets_C1: AnyArray,
        postings: AnyArray,
        bits: int,
        levels: F32,
        alpha: F32,
        beta: F32,
        centroids_f32: F32 | None,
        normalize: bool,
    ) -> None:
        self.dim = table.dim
        self.tokens = len(codes_T)
        self.passages = len(offsets_N1) - 1
        _check_array("codes_T", codes_T, 1, "uint16", "uint32")
        _check_array("residuals_TB", residuals_TB, 2, "uint8")
        _check_array("scales_T", scales_T, 1, "uint8")
        _check_array("offsets_N1", offsets_N1, 1, "uint64")
        _check_array("posting_offsets_C1", posting_offsets_C1, 1, "uint64")
        _check_array("postings", postings, 1, "uint16", "uint32")
        _require(bits in (1, 2, 3, 4), f"bits {bits} must be 1, 2, 3 or 4")
        stored = self.dim * bits // 8
        _require(
            residuals_TB.shape == (self.tokens, stored),
            f"residuals_TB has shape {residuals_TB.shape}, expected ({self.tokens}, {stored})",
        )
        _require(
            len(scales_T) == self.tokens,
            f"scales_T has {len(scales_T)} entries for {self.tokens} tokens",
        )
        _check_offsets("offsets_N1", offsets_N1, self.tokens)
        _require(
            len(posting_offsets_C1) == table.centroids + 1,
            f"posting_offsets_C1 has {len(posting_offsets_C1)} entries "
            f"for {table.centroids} centroids",
        )
        _check_offsets("posting_offsets_C1", posting_offsets_C1, len(postings))
        for name, values, size in (
            ("levels", levels, 1 << bits),
            ("alpha", alpha, 256),
            ("beta", beta, 256),
        ):
            _check_array(name, values, 1, "float32")
            _require(len(values) == size, f"{name} has {len(values)} entries, expected {size}")
            _require(bool(np.all(np.abs(values) <= MAX_MAGNITUDE)), f"{name} must lie within ±1e6")
        if centroids_f32 is not None:
            _check_array("centroids_f32", centroids_f32, 2, "float32")
            _require(
                centroids_f32.shape == table.codes_CD.shape,
                f"centroids_f32 has shape {centroids_f32.shape}, expected {table.codes_CD.shape}",
            )
        self.table, self.codes_T, self.residuals_TB = table, codes_T, residuals_TB
        self.scales_T, self.offsets_N1, self.postings = scales_T, offsets_N1, postings
        self.posting_offsets_C1, self.bits, self.levels = posting_offsets_C1, bits, levels
        self.alpha, self.beta, self.centroids_f32 = alpha, beta, centroids_f32
        self.normalize = normalize
        self.levels_i8, self.level_step = quantise_levels(levels)

    # ------------------------------------------------------------ public calls

    def search(
        self,
        Q_LD: F32,
        probe_ids_LP: I32,
        probe_scores_LP: F32,
        k: int,
        candidates: int,
        allowed_N: U8 | None = None,
        deadline_s: float = 0.0,
    ) -> tuple[I64, F32, int, int]:
        """The best `k` passages: candidates by postings, int8 MaxSim, then precise MaxSim.

        Args:
            Q_LD: float32 [L, D], rotated.
            probe_ids_LP, probe_scores_LP: int32 and float32 [L, P] as `CentroidTable.probe` gives
                them: per token, score descending.
            k: hits wanted, at least 1; fewer come only if fewer passages are allowed.
            candidates: passages that are scored by MaxSim; at least `k` are.
            allowed_N: uint8 [N], 0 excludes a passage; None allows all.
            deadline_s: `time.monotonic()` value after which to give up; 0 is never.

        Returns:
            passages int64 [K], scores float32 [K] (score descending, then smaller passage), how
            many passages the probes touched, how many were scored precisely.

        Raises:
            ValueError: an argument is wrong; RuntimeError: the shard's data is corrupt;
            TimeoutError: the deadline passed (the stage is named).
        """
        _check_query(Q_LD, self.dim)
        _check_probes(probe_ids_LP, probe_scores_LP, len(Q_LD), self.table.centroids)
        _require(k >= 1, f"k {k} must be at least 1")
        _require(candidates >= 1, f"candidates {candidates} must be at least 1")
        allowed = self._allowed(allowed_N)
        live = self.passages if allowed is None else int(np.count_nonzero(allowed))
        if live == 0:
            return np.zeros(0, np.int64), np.zeros(0, np.float32), 0, 0
        candidates = max(candidates, k)
        if live <= candidates:
            pids, touched = self._all_passages(allowed), live
        else:
            pids, touched = self._candidates(
                Q_LD, probe_ids_LP, probe_scores_LP, min(k, live), candidates, allowed, deadline_s
            )
        precise = min(len(pids), k + max(16, k // 4))
        if precise < len(pids):
            pids = _best(pids, self._scan(Q_LD, pids, deadline_s), precise)[0]
        scores = self._precise(Q_LD, np.sort(pids), deadline_s)
        pids, scores = _best(np.sort(pids), scores, k)
        return pids, scores, touched, precise

    def exhaustive(
        self, Q_LD: F32, k: int, allowed_N: U8 | None = None, deadline_s: float = 0.0
    ) -> tuple[I64, F32, int, int]:
        """As `search`, with every allowed passage scored precisely."""
        _check_query(Q_LD, self.dim)
        _require(k >= 1, f"k {k} must be at least 1")
        pids = self._all_passages(self._allowed(allowed_N))
        hits, scores = _best(pids, self._precise(Q_LD, pids, deadline_s), k)
        return hits, scores, len(pids), len(pids)

    def score(self, Q_LD: F32, pids: I64) -> F32:
        """Precise MaxSim, float32 [M], of the passages `pids`, int64 [M], in their order."""
        _check_query(Q_LD, self.dim)
        _check_array("pids", pids, 1, "int64")
        for pid in pids:
            self._check_pid(int(pid))
        return self._precise(Q_LD, pids, 0.0)

    def match(self, Q_LD: F32, pid: int) -> tuple[I32, F32]:
        """Per query token, the best token of passage `pid` (int32 [L], its index in the passage;
        ties by the smaller) and that score (float32 [L])."""
        _check_query(Q_LD, self.dim)
        self._check_pid(pid)
        start, end = self._span(pid)
        dots_TL = precise_dots(self._decode(start, end), Q_LD)
        best_L = dots_TL.argmax(axis=0)
        return best_L.astype(np.int32), dots_TL[best_L, np.arange(len(Q_LD))]

    def decode(self, first_token: int, count: int) -> F32:
        """The vectors, float32 [count, D], of consecutive tokens."""
        _require(
            first_token >= 0 and count >= 0 and first_token + count <= self.tokens,
            f"tokens {first_token} to {first_token + count} lie outside the shard's {self.tokens}",
        )
        return self._decode(first_token, first_token + count)

    # ------------------------------------------------------------ stages

    def _candidates(
        self,
        Q_LD: F32,
        ids_LP: I32,
        scores_LP: F32,
        wanted: int,
        candidates: int,
        allowed: U8 | None,
        deadline_s: float,
    ) -> tuple[I64, int]:
        """The best candidates; probes 4 times wider until `wanted` passages are touched."""
        while True:
            _check_deadline(deadline_s, "candidates")
            pids, totals = self._accumulate(ids_LP, scores_LP, allowed)
            width = ids_LP.shape[1]
            if len(pids) >= wanted or width >= self.table.centroids:
                break
            ids_LP, scores_LP = self.table.probe(Q_LD, min(4 * width, self.table.centroids))
        order = np.lexsort((pids, -totals))[:candidates]
        return pids[order], len(pids)

    def _accumulate(self, ids_LP: I32, scores_LP: F32, allowed: U8 | None) -> tuple[I64, I64]:
        """Touched passages and their integer totals.

        The first time a query token meets a passage, through its i-th probe, the passage gains
        1 + round((s_i − s_last) · 2^20 / range), `range` the largest s_first − s_last of all query
        tokens: what it is known to score more than a passage that the token's probes do not hold,
        and 1 for being met at all. Integers, so that the order of addition cannot matter.
        """
        gains_LP = scores_LP - scores_LP[:, -1:]
        widest = gains_LP[:, 0].max()
        factor = np.float32(FINEST_ADDEND) / widest if widest >= SMALLEST_RANGE else np.float32(0)
        addends_LP = 1 + np.minimum(np.rint(gains_LP * factor), FINEST_ADDEND).astype(np.int64)
        totals_N = np.zeros(self.passages, np.int64)
        met_N = np.full(self.passages, -1, np.int64)
        for token, (ids_P, addends_P) in enumerate(zip(ids_LP, addends_LP, strict=True)):
            for centroid, addend in zip(ids_P, addends_P, strict=True):
                pids = self._posting_list(int(centroid))
                if allowed is not None:
                    pids = pids[allowed[pids] != 0]
                new = np.unique(pids[met_N[pids] != token])
                met_N[new] = token
                totals_N[new] += addend
        touched = np.flatnonzero(met_N >= 0)
        return touched, totals_N[touched]

    def _scan(self, Q_LD: F32, pids: I64, deadline_s: float) -> F32:
        """Approximate MaxSim, float32 [M], from int8 queries, centroids and levels.

        token score = alpha·S + (beta·level_step)·(dot·q_scale), S the centroid's score.
        """
        q_LD, q_scales_L = quantise_query(Q_LD)
        weights = self.beta * self.level_step
        totals = np.zeros(len(pids), np.float32)
        for i, pid in enumerate(pids):
            if i % BATCH == 0:
                _check_deadline(deadline_s, "scan")
            start, end = self._span(int(pid))
            codes = self._codes(start, end)
            S_TL = centroid_scores(
                self.table.codes_CD[codes], self.table.scales_C[codes], q_LD, q_scales_L
            )
            indices_TD = unpack_residuals(self.residuals_TB[start:end], self.bits, self.dim)
            dots_TL = integer_dots(self.levels_i8[indices_TD], q_LD)
            scales_T = self.scales_T[start:end]
            scores_TL = self.alpha[scales_T][:, None] * S_TL + weights[scales_T][:, None] * (
                dots_TL * q_scales_L
            )
            totals[i] = sum_over_query(scores_TL.max(axis=0))
        return totals

    def _precise(self, Q_LD: F32, pids: I64, deadline_s: float) -> F32:
        """MaxSim, float32 [M], of the decoded vectors and the float32 query."""
        totals = np.zeros(len(pids), np.float32)
        for i, pid in enumerate(pids):
            if i % BATCH == 0:
                _check_deadline(deadline_s, "precise scoring")
            start, end = self._span(int(pid))
            dots_TL = precise_dots(self._decode(start, end), Q_LD)
            totals[i] = sum_over_query(dots_TL.max(axis=0))
        return totals

    def _decode(self, start: int, end: int) -> F32:
        codes = self._codes(start, end)
        if self.centroids_f32 is not None:
            centroids_TD = self.centroids_f32[codes]
        else:
            table = self.table
            centroids_TD = table.codes_CD[codes].astype(np.float32) * table.scales_C[codes][:, None]
        indices_TD = unpack_residuals(self.residuals_TB[start:end], self.bits, self.dim)
        scales_T1 = self.scales_T[start:end, None]
        vectors_TD = (
            self.alpha[scales_T1] * centroids_TD + self.beta[scales_T1] * self.levels[indices_TD]
        )
        if self.normalize:
            vectors_TD = vectors_TD * inverse_norms(vectors_TD)
        return vectors_TD

    # ------------------------------------------------------------ what may be corrupt

    def _codes(self, start: int, end: int) -> AnyArray:
        codes = self.codes_T[start:end]
        if len(codes) and int(codes.max()) >= self.table.centroids:
            first = start + int(np.argmax(codes >= self.table.centroids))
            raise _corrupt(
                f"token {first} has centroid {int(self.codes_T[first])} of {self.table.centroids}"
            )
        return codes

    def _span(self, pid: int) -> tuple[int, int]:
        start, end = int(self.offsets_N1[pid]), int(self.offsets_N1[pid + 1])
        if not start < end <= self.tokens:
            raise _corrupt(f"passage {pid} spans tokens {start} to {end} of {self.tokens}")
        return start, end

    def _posting_list(self, centroid: int) -> AnyArray:
        start = int(self.posting_offsets_C1[centroid])
        end = int(self.posting_offsets_C1[centroid + 1])
        if not start <= end <= len(self.postings):
            raise _corrupt(
                f"centroid {centroid} spans postings {start} to {end} of {len(self.postings)}"
            )
        pids = self.postings[start:end]
        if len(pids) and int(pids.max()) >= self.passages:
            raise _corrupt(
                f"centroid {centroid} lists passage {int(pids.max())} of {self.passages}"
            )
        return pids

    # ------------------------------------------------------------ arguments

    def _allowed(self, allowed_N: U8 | None) -> U8 | None:
        if allowed_N is not None:
            _check_array("allowed_N", allowed_N, 1, "uint8")
            _require(
                len(allowed_N) == self.passages,
                f"allowed_N has {len(allowed_N)} entries for {self.passages} passages",
            )
        return allowed_N

    def _all_passages(self, allowed: U8 | None) -> I64:
        return np.arange(self.passages) if allowed is None else np.flatnonzero(allowed)

    def _check_pid(self, pid: int) -> None:
        _require(0 <= pid < self.passages, f"passage {pid} is not one of {self.passages}")


# ---------------------------------------------------------------- helpers


def _best(pids: I64, scores: F32, k: int) -> tuple[I64, F32]:
    """The best k: score descending, then smaller passage."""
    order = np.lexsort((pids, -scores))[:k]
    return pids[order].astype(np.int64), scores[order]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_array(name: str, array: Any, ndim: int, *dtypes: str) -> None:
    _require(
        isinstance(array, np.ndarray)
        and array.ndim == ndim
        and array.dtype.name in dtypes
        and array.flags.c_contiguous
        and array.flags.aligned,
        f"{name} must be a C-contiguous {' or '.join(dtypes)} array of {ndim} dimension(s)",
    )


def _check_offsets(name: str, offsets: AnyArray, last: int) -> None:
    _require(len(offsets) >= 1, f"{name} is empty; it needs at least one entry")
    _require(int(offsets[0]) == 0, f"{name} starts at {int(offsets[0])}, expected 0")
    _require(int(offsets[-1]) == last, f"{name} ends at {int(offsets[-1])}, expected {last}")


def _check_query(Q_LD: F32, dim: int) -> None:
    _check_array("Q_LD", Q_LD, 2, "float32")
    _require(1 <= len(Q_LD) <= 1024, f"the query has {len(Q_LD)} tokens; 1 to 1024 are possible")
    _require(Q_LD.shape[1] == dim, f"the query has dimension {Q_LD.shape[1]}, the index has {dim}")
    _require(
        bool(np.all(np.abs(Q_LD) <= MAX_MAGNITUDE)),
        "query values must be numbers within ±1e6 (no NaN, no infinity)",
    )


def _check_probes(ids_LP: I32, scores_LP: F32, query_tokens: int, centroids: int) -> None:
    _check_array("probe_ids_LP", ids_LP, 2, "int32")
    _check_array("probe_scores_LP", scores_LP, 2, "float32")
    _require(
        ids_LP.shape == scores_LP.shape and len(ids_LP) == query_tokens and ids_LP.shape[1] >= 1,
        f"probe arrays have shapes {ids_LP.shape} and {scores_LP.shape}, "
        f"expected ({query_tokens}, P) with P at least 1",
    )
    _require(
        bool(np.all((ids_LP >= 0) & (ids_LP < centroids))),
        f"probe_ids_LP must lie below the number of centroids, {centroids}",
    )
    _require(
        bool(np.all(np.abs(scores_LP) <= LARGEST_PROBE_SCORE))
        and bool(np.all(scores_LP[:, :-1] >= scores_LP[:, 1:])),
        "probe_scores_LP must be finite and descending per query token",
    )


def _check_deadline(deadline_s: float, stage: str) -> None:
    if deadline_s > 0 and time.monotonic() >= deadline_s:
        raise TimeoutError(f"the deadline passed during {stage}; allow more time or search less")


def _corrupt(what: str) -> RuntimeError:
    return RuntimeError(f"corrupt shard: {what}; run `tartan index verify`")
