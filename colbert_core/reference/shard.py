"""One shard: candidates by postings, centroid interaction, precise MaxSim."""

from __future__ import annotations

import numpy as np

from colbert_core.reference.arithmetic import (
    coarse_query,
    integer_dots,
    precise_dots,
    quantise_query,
    query_dots,
    query_length,
    row_scales,
    sum_over_query,
)
from colbert_core.reference.arrays import ShardArrays
from colbert_core.reference.checks import (
    check_array,
    check_deadline,
    check_probes,
    check_query,
    require,
)
from colbert_core.reference.choosing import (
    FINEST_ADDEND,
    LARGEST_TOTAL,
    MOST,
    addend_factor,
    best,
    check_margin,
    check_stopping,
    estimates_of,
)
from colbert_core.reference.contexts import context_scores
from colbert_core.reference.stopping import ExpectedMisses, score_enough
from colbert_core.reference.trellis import windows_of
from colbert_core.types import F32, I32, I64, U8

BATCH = 64  # passages between two looks at the clock


class Shard(ShardArrays):
    """The search over the arrays of one shard."""

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
        missed: float = 0.0,
        spread: float = 0.0,
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
            margin: a candidate whose approximate score is more than margin · √Σ‖q‖² (√L
                where tokens are of unit length) below the k-th best is left out; at least 0.
            scored: the most candidates that are scored precisely, at least `k`: the best by
                centroid interaction. 0 scores none: the hits and their scores are those of
                centroid interaction, or, of no more than `k` candidates, what postings say.
            missed: the share of the hits that may be expected to be missed by scoring no more
                (`stopping.py`): the best k by centroid interaction are scored, and of the others,
                up to `scored`, what it takes. 0 has all of them scored; at most 1.
            spread: by how much precise scores are expected to differ from what centroid interaction
                and their mean difference tell, over √Σ‖q‖², before any is known.

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
        first = check_margin(margin)
        missed_f32, spread_f32 = check_stopping(missed, spread)
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
            return *best(pids, estimates, k), touched, 0
        stops, most = missed_f32 > 0 and len(pids) > k, max(scored, k)
        if stops or len(pids) > most:
            pids, coarse = best(pids, self._interact(Q_LD, pids, deadline_s), most)
        if stops:
            length = float(query_length(coarse_query(Q_LD)))
            misses = ExpectedMisses(k, missed_f32, float(spread_f32) * length)
            pids, precise = score_enough(
                pids, coarse, misses, lambda some: self._precise(Q_LD, some, deadline_s)
            )
        else:
            pids = np.sort(pids)
            precise = self._precise(Q_LD, pids, deadline_s)
        hits, scores = best(pids, precise, k)
        return hits, scores, touched, len(pids)

    def approximate(
        self,
        Q_LD: F32,
        probe_ids_LP: I32,
        probe_scores_LP: F32,
        allowed_N: U8 | None = None,
        first: int = 0,
        last: int | None = None,
    ) -> tuple[I64, F32]:
        """What candidates are chosen by: every passage that the probes touch, int64 [M] ascending,
        and its estimated score, float32 [M]: a token that meets none of the passage's centroids
        counts as much as the last centroid that it probed.

        Of a window of the passages, `first` to `last` − 1, alone; `allowed_N` is the window's."""
        check_query(Q_LD, self.dim)
        check_probes(probe_ids_LP, probe_scores_LP, len(Q_LD), self.table.centroids)
        last = self.passages if last is None else last
        if not 0 <= first <= last <= self.passages:
            raise ValueError(f"passages {first} to {last} are not a window of {self.passages}")
        if allowed_N is not None and len(allowed_N) != last - first:
            raise ValueError(f"allowed_N has {len(allowed_N)} entries, expected {last - first}")
        inside_N = np.zeros(self.passages, np.uint8)
        inside_N[first:last] = 1 if allowed_N is None else allowed_N
        pids, totals = self._accumulate(probe_ids_LP, probe_scores_LP, self._allowed(inside_N))
        return pids, estimates_of(totals, probe_scores_LP)

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
        hits, scores = best(pids, self._precise(Q_LD, pids, deadline_s), k)
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
            slack = margin * query_length(coarse_query(Q_LD)) * factor
        if len(order) > wanted and factor > 0 and slack < LARGEST_TOTAL:
            order = order[totals[order] >= totals[order[wanted - 1]] - int(slack)]
        order = np.sort(order)
        return pids[order], estimates_of(totals[order], scores_LP), len(pids)

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
        query, table = coarse_query(Q_LD), self.table
        gains_L, steps_L = row_scales(query, table.longest)
        totals = np.zeros(len(pids), np.float32)
        for i, pid in enumerate(pids):
            if i % BATCH == 0:
                check_deadline(deadline_s, "centroid interaction")
            codes = self._codes(*self._span(int(pid)))
            dots_TL = integer_dots(table.codes_CD[codes], query.values_LD)
            rows_TL = np.rint(dots_TL * (gains_L[None, :] * table.scales_C[codes][:, None]))
            totals[i] = sum_over_query(rows_TL.max(axis=0).astype(np.float32) * steps_L)
        return self._with_contexts(totals, Q_LD, pids)

    def _scan(self, Q_LD: F32, pids: I64, deadline_s: float) -> F32:
        """MaxSim, float32 [M], from int8 centroids and levels and the query's int8 planes.

        token score = (alpha·c_scale)·dot(centroid) + (beta·level_step)·dot(levels), and q_scale
        times the largest of a passage is what a query token adds; the context adds its own.
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
        return self._with_contexts(totals, Q_LD, pids)

    def _with_contexts(self, totals: F32, Q_LD: F32, pids: I64) -> F32:
        """MaxSim, float32 [M], with what the passages' tokens share: the same for each, so that it
        does not change which is the best."""
        if self.contexts_NX is None:
            return totals
        return totals + context_scores(Q_LD, self._contexts(pids), self.bits, self.levels)

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
