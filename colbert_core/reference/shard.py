"""One shard: candidates by postings, centroid interaction, precise MaxSim."""

from __future__ import annotations

import numpy as np

from colbert_core.packed_ints import SLACK, PackedInts
from colbert_core.posting_lists import decode_list
from colbert_core.reference.arithmetic import (
    integer_dots,
    inverse_norms,
    precise_dots,
    quantise_levels,
    quantise_query,
    query_dots,
    row_scales,
    sum_over_query,
    unpack_residuals,
)
from colbert_core.reference.checks import (
    MAX_MAGNITUDE,
    check_array,
    check_deadline,
    check_ends,
    check_probes,
    check_query,
    corrupt,
    require,
)
from colbert_core.reference.table import CentroidTable
from colbert_core.reference.trellis import WINDOWS, windows_of
from colbert_core.types import F32, I32, I64, U8, Bool

FINEST_ADDEND = 2**20
"""The largest addend of a candidate's score in integer units: 1024 of them fit in 31 bits."""

GRID_TOLERANCE = np.float32(1e-6)  # of the largest level: a float's rounding
LARGEST_TOTAL = 2**31

SMALLEST_RANGE = np.float32(1e-30)  # of probe scores; below, all gains count as equal
MOST = 2**63 - 1  # where nothing is limited
BATCH = 64  # passages between two looks at the clock


class Shard:
    """The arrays of one shard and the search over them. Immutable and thread-safe.

    Args:
        table: the global centroids.
        passages: N.
        codes: uint8, the centroid of every token [T], packed (`packed_ints.py`).
        residuals_TB: uint8 [T, D·bits/8].
        scales_T: uint8 [T], index into `alpha` and `beta`.
        offsets: uint8, the first token of every passage, then T [N+1], packed.
        posting_offsets: uint8, the first byte of every centroid's list, then their end [C+1],
            packed.
        postings: uint8, the passages that hold a centroid, lists of `posting_lists.py`.
        bits: 1, 2, 3 or 4.
        levels: float32 [64], and the residuals are bits along the trellis (`trellis.py`); or
            [2^bits], and they are indices in planes.
        alpha, beta: float32 [256]. A token decodes to alpha[s]·centroid + beta[s]·level.
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
        for name, packed in (
            ("codes", codes),
            ("offsets", offsets),
            ("posting_offsets", posting_offsets),
            ("postings", postings),
        ):
            check_array(name, packed, 1, "uint8")
        check_array("residuals_TB", residuals_TB, 2, "uint8")
        check_array("scales_T", scales_T, 1, "uint8")
        require(bits in (1, 2, 3, 4), f"bits {bits} must be 1, 2, 3 or 4")
        stored = self.dim * bits // 8
        require(
            residuals_TB.shape == (self.tokens, stored),
            f"residuals_TB has shape {residuals_TB.shape}, expected ({self.tokens}, {stored})",
        )
        require(
            len(postings) >= SLACK,
            f"postings has {len(postings)} bytes, expected at least {SLACK}",
        )
        end, centroids = len(postings) - SLACK, table.centroids
        self.codes_T = PackedInts("codes", codes, self.tokens, centroids - 1)
        self.offsets_N1 = PackedInts("offsets", offsets, passages + 1, self.tokens)
        self.lists_C1 = PackedInts("posting_offsets", posting_offsets, centroids + 1, end)
        check_ends("offsets", self.offsets_N1, self.tokens)
        check_ends("posting_offsets", self.lists_C1, end)
        self.trellis = len(levels) == WINDOWS
        for name, values, size in (
            ("levels", levels, WINDOWS if self.trellis else 1 << bits),
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
        self.table, self.residuals_TB, self.scales_T = table, residuals_TB, scales_T
        self.postings, self.bits, self.levels = postings, bits, levels
        self.alpha, self.beta, self.centroids_f32 = alpha, beta, centroids_f32
        self.normalize = normalize
        self.levels_i8, self.level_step = quantise_levels(levels)
        self.on_grid = scores_are_integers(levels, centroids_f32, normalize)

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
        margin: float = np.inf,
        scored: int = MOST,
        interaction_margin: float = np.inf,
    ) -> tuple[I64, F32, int, int]:
        """The best `k` passages: candidates by postings, centroid interaction, precise MaxSim.

        Args:
            Q_LD: float32 [L, D], rotated.
            probe_ids_LP, probe_scores_LP: int32 and float32 [L, P] as `CentroidTable.probe` gives
                them: per token, score descending.
            k: hits wanted, at least 1; fewer come only if fewer passages are allowed.
            candidates: the most passages that are looked at further, at least `k`.
            allowed_N: uint8 [N], 0 excludes a passage; None allows all.
            deadline_s: `time.monotonic()` value after which to give up; 0 is never.
            margin: a candidate whose approximate score is more than margin · √L below the k-th
                best is left out; at least 0.
            scored: the most candidates that are scored precisely, at least `k`: the best by
                centroid interaction. 0 scores none: the hits and their scores are those of
                centroid interaction, or, of no more than `k` candidates, what postings say.
            interaction_margin: as `margin`, of the scores by centroid interaction.

        Returns:
            passages int64 [K], scores float32 [K] (score descending, then smaller passage), how
            many passages the probes touched, how many were scored precisely.

        Raises:
            ValueError: an argument is wrong; RuntimeError: the shard's data is corrupt;
            TimeoutError: the deadline passed (the stage is named).
        """
        check_query(Q_LD, self.dim)
        check_probes(probe_ids_LP, probe_scores_LP, len(Q_LD), self.table.centroids)
        require(k >= 1, f"k {k} must be at least 1")
        require(candidates >= 1, f"candidates {candidates} must be at least 1")
        require(scored >= 0, f"scored {scored} must be at least 0")
        first = check_margin("margin", margin)
        second = check_margin("interaction_margin", interaction_margin)
        allowed = self._allowed(allowed_N)
        live = self.passages if allowed is None else int(np.count_nonzero(allowed))
        if live == 0:
            return np.zeros(0, np.int64), np.zeros(0, np.float32), 0, 0
        candidates, estimates = max(candidates, k), None
        if live <= (candidates if np.isinf(first) else k):
            pids, touched = self._all_passages(allowed), live
        else:
            wanted = min(k, live)
            probes = probe_ids_LP, probe_scores_LP
            pids, estimates, touched = self._candidates(
                Q_LD, *probes, wanted, candidates, first, allowed, deadline_s
            )
        if scored == 0:
            if estimates is None or len(pids) > k:
                estimates = self._interact(Q_LD, pids, deadline_s)
            return *_best(pids, estimates, k), touched, 0
        most = max(scored, k)
        if len(pids) > (most if np.isinf(second) else k):
            pids, found = _best(pids, self._interact(Q_LD, pids, deadline_s), most)
            pids = np.sort(pids[_not_far_behind(found, k, second, len(Q_LD))])
        hits, scores = _best(pids, self._precise(Q_LD, pids, deadline_s), k)
        return hits, scores, touched, len(pids)

    def approximate(
        self,
        Q_LD: F32,
        probe_ids_LP: I32,
        probe_scores_LP: F32,
        allowed_N: U8 | None = None,
    ) -> tuple[I64, F32]:
        """What candidates are chosen by: every passage that the probes touch, int64 [M] ascending,
        and its estimated score, float32 [M]: a token that meets none of the passage's centroids
        counts as much as the last centroid that it probed."""
        check_query(Q_LD, self.dim)
        check_probes(probe_ids_LP, probe_scores_LP, len(Q_LD), self.table.centroids)
        pids, totals = self._accumulate(probe_ids_LP, probe_scores_LP, self._allowed(allowed_N))
        return pids, _estimates(totals, probe_scores_LP)

    def interaction(self, Q_LD: F32, pids: I64) -> F32:
        """Scores by centroid interaction, float32 [M], of the passages `pids`, int64 [M]."""
        check_query(Q_LD, self.dim)
        check_array("pids", pids, 1, "int64")
        for pid in pids:
            self._check_pid(int(pid))
        return self._interact(Q_LD, pids, 0.0)

    def exhaustive(
        self, Q_LD: F32, k: int, allowed_N: U8 | None = None, deadline_s: float = 0.0
    ) -> tuple[I64, F32, int, int]:
        """As `search`, with every allowed passage scored precisely."""
        check_query(Q_LD, self.dim)
        require(k >= 1, f"k {k} must be at least 1")
        pids = self._all_passages(self._allowed(allowed_N))
        hits, scores = _best(pids, self._precise(Q_LD, pids, deadline_s), k)
        return hits, scores, len(pids), len(pids)

    def score(self, Q_LD: F32, pids: I64) -> F32:
        """Precise MaxSim, float32 [M], of the passages `pids`, int64 [M], in their order."""
        check_query(Q_LD, self.dim)
        check_array("pids", pids, 1, "int64")
        for pid in pids:
            self._check_pid(int(pid))
        return self._precise(Q_LD, pids, 0.0)

    def match(self, Q_LD: F32, pid: int) -> tuple[I32, F32]:
        """Per query token, the best token of passage `pid` (int32 [L], its index in the passage;
        ties by the smaller) and that score (float32 [L])."""
        check_query(Q_LD, self.dim)
        self._check_pid(pid)
        start, end = self._span(pid)
        dots_TL = precise_dots(self._decode(start, end), Q_LD)
        best_L = dots_TL.argmax(axis=0)
        return best_L.astype(np.int32), dots_TL[best_L, np.arange(len(Q_LD))]

    def decode(self, first_token: int, count: int) -> F32:
        """The vectors, float32 [count, D], of consecutive tokens."""
        require(
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
        margin: np.float32,
        allowed: U8 | None,
        deadline_s: float,
    ) -> tuple[I64, F32, int]:
        """The best candidates ascending, their estimated scores, how many passages were touched;
        probes 4 times wider until `wanted` are."""
        while True:
            check_deadline(deadline_s, "candidates")
            pids, totals = self._accumulate(ids_LP, scores_LP, allowed)
            width = ids_LP.shape[1]
            if len(pids) >= wanted or width >= self.table.centroids:
                break
            ids_LP, scores_LP = self.table.probe(Q_LD, min(4 * width, self.table.centroids))
        order = np.lexsort((pids, -totals))[:candidates]
        factor = addend_factor(scores_LP)
        with np.errstate(over="ignore", invalid="ignore"):
            slack = margin * np.sqrt(np.float32(len(Q_LD))) * factor
        if len(order) > wanted and factor > 0 and slack < LARGEST_TOTAL:
            order = order[totals[order] >= totals[order[wanted - 1]] - int(slack)]
        order = np.sort(order)
        return pids[order], _estimates(totals[order], scores_LP), len(pids)

    def _accumulate(self, ids_LP: I32, scores_LP: F32, allowed: U8 | None) -> tuple[I64, I64]:
        """Touched passages and their integer totals.

        The first time a query token meets a passage, through its i-th probe, the passage gains
        1 + round((s_i − s_last) · 2^20 / range), `range` the largest s_first − s_last of all query
        tokens: what it is known to score more than a passage that the token's probes do not hold,
        and 1 for being met at all. Integers, so that the order of addition cannot matter.
        """
        gains_LP = scores_LP - scores_LP[:, -1:]
        factor = addend_factor(scores_LP)
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

    def _interact(self, Q_LD: F32, pids: I64, deadline_s: float) -> F32:
        """MaxSim, float32 [M], with every token taken for its centroid (PLAID, stage 3).

        A centroid's score is an int16 in steps of its own for each query token (`row_scales`).
        """
        query, table = quantise_query(Q_LD), self.table
        gains_L, steps_L = row_scales(query, table.longest)
        totals = np.zeros(len(pids), np.float32)
        for i, pid in enumerate(pids):
            if i % BATCH == 0:
                check_deadline(deadline_s, "centroid interaction")
            codes = self._codes(*self._span(int(pid)))
            dots_TL = integer_dots(table.codes_CD[codes], query.high_LD)
            rows_TL = np.rint(dots_TL * (gains_L[None, :] * table.scales_C[codes][:, None]))
            totals[i] = sum_over_query(rows_TL.max(axis=0).astype(np.float32) * steps_L)
        return totals

    def _scan(self, Q_LD: F32, pids: I64, deadline_s: float) -> F32:
        """MaxSim, float32 [M], from int8 centroids and levels and the query's int8 planes.

        token score = (alpha·c_scale)·dot(centroid) + (beta·level_step)·dot(levels), and q_scale
        times the largest of a passage is what a query token adds.
        """
        query = quantise_query(Q_LD)
        weights = self.beta * self.level_step
        totals = np.zeros(len(pids), np.float32)
        for i, pid in enumerate(pids):
            if i % BATCH == 0:
                check_deadline(deadline_s, "precise scoring")
            start, end = self._span(int(pid))
            codes = self._codes(start, end)
            windows_TD = windows_of(self.residuals_TB[start:end], self.bits, self.dim)
            scales_T = self.scales_T[start:end]
            centroid_weights_T = self.alpha[scales_T] * self.table.scales_C[codes]
            scores_TL = centroid_weights_T[:, None] * query_dots(
                self.table.codes_CD[codes], query
            ) + weights[scales_T][:, None] * query_dots(self.levels_i8[windows_TD], query)
            totals[i] = sum_over_query(scores_TL.max(axis=0) * query.scales_L)
        return totals

    def _precise(self, Q_LD: F32, pids: I64, deadline_s: float) -> F32:
        """MaxSim, float32 [M], of the decoded vectors.

        Where centroids and levels lie on their int8 grids (`tartan`), a scan with 16 bits of the
        query; otherwise of the vectors decoded to float32.
        """
        if self.on_grid:
            return self._scan(Q_LD, pids, deadline_s)
        totals = np.zeros(len(pids), np.float32)
        for i, pid in enumerate(pids):
            if i % BATCH == 0:
                check_deadline(deadline_s, "precise scoring")
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
        unpack = windows_of if self.trellis else unpack_residuals
        indices_TD = unpack(self.residuals_TB[start:end], self.bits, self.dim)
        scales_T1 = self.scales_T[start:end, None]
        vectors_TD = (
            self.alpha[scales_T1] * centroids_TD + self.beta[scales_T1] * self.levels[indices_TD]
        )
        if self.normalize:
            vectors_TD = vectors_TD * inverse_norms(vectors_TD)
        return vectors_TD

    # ------------------------------------------------------------ what may be corrupt

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


def addend_factor(scores_LP: F32) -> np.float32:
    """Integer units of a candidate's total per unit of score; 0 where all probes score alike."""
    widest = (scores_LP[:, 0] - scores_LP[:, -1]).max()
    return np.float32(FINEST_ADDEND) / widest if widest >= SMALLEST_RANGE else np.float32(0)


def _best(pids: I64, scores: F32, k: int) -> tuple[I64, F32]:
    """The best k: score descending, then smaller passage."""
    order = np.lexsort((pids, -scores))[:k]
    return pids[order].astype(np.int64), scores[order]


def _estimates(totals: I64, scores_LP: F32) -> F32:
    """Scores, float32, of integer totals: above what the last probes of all tokens would give."""
    base, factor = sum_over_query(scores_LP[:, -1]), addend_factor(scores_LP)
    gains = totals.astype(np.float32) / factor if factor > 0 else np.zeros(len(totals), np.float32)
    estimates: F32 = base + gains
    return estimates


def check_margin(name: str, margin: float) -> np.float32:
    require(margin >= 0, f"{name} must be a number of at least 0")
    with np.errstate(over="ignore"):
        return np.float32(margin)


def _not_far_behind(scores: F32, k: int, margin: np.float32, tokens: int) -> Bool:
    """Which of descending scores lie within margin · √tokens of the k-th."""
    slack = margin * np.sqrt(np.float32(tokens))
    kept: Bool = scores >= scores[min(k, len(scores)) - 1] - slack
    return kept
