"""The stages of a search, for queries of one kind at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from colbert_core.reference.checks import check_deadline
from colbert_core.reference.stopping import ROUNDS, ExpectedMisses
from colbert_core.torch_kernels.arrays import DeviceArrays
from colbert_core.torch_kernels.candidates import (
    Probes,
    accumulate,
    choose,
    estimates,
    slack,
)
from colbert_core.torch_kernels.queries import QueryBatch, make_batch
from colbert_core.torch_kernels.scoring import PreciseScorer, interact
from colbert_core.torch_kernels.select import best_pairs
from colbert_core.torch_kernels.table import TorchTable
from colbert_core.types import F32, I64, U8

Found = tuple[I64, F32, int, int]
"""Passages int64 [K] and scores float32 [K], best first; how many were touched; and scored."""


@dataclass(frozen=True)
class Effort:
    """What the queries of a batch have in common; the arguments of `search`."""

    k: int
    candidates: int
    margin: float
    scored: int
    missed: np.float32
    spread: np.float32


@dataclass(frozen=True)
class Query:
    """One query, float32 [L, D]; its probes, or None to score every passage; its deadline."""

    Q_LD: F32
    probes: Probes | None
    allowed_N: U8 | None
    effort: Effort
    deadline_s: float


@dataclass(frozen=True)
class Stages:
    """`search` of `reference/shard.py`, and what it needs; `budget` as `TorchShard` takes it."""

    table: TorchTable
    arrays: DeviceArrays
    precise: PreciseScorer
    budget: int

    @property
    def passages(self) -> int:
        return len(self.arrays.offsets_N1) - 1

    def run(self, queries: Sequence[Query]) -> list[Found]:
        """Queries of one effort, one mask and one kind, as many at a time as memory allows."""
        group = max(1, self.budget // (32 * max(1, self.passages)))
        found: list[Found] = []
        for start in range(0, len(queries), group):
            found += self._search(queries[start : start + group])
        return found

    def _search(self, queries: Sequence[Query]) -> list[Found]:
        effort, allowed_N = queries[0].effort, queries[0].allowed_N
        k, device = effort.k, self.table.device
        # The last deadline: each caller looks at its own when it has its answer.
        deadlines = [query.deadline_s for query in queries]
        deadline_s = 0.0 if 0.0 in deadlines else max(deadlines)
        live = self.passages if allowed_N is None else int(np.count_nonzero(allowed_N))
        if live == 0:
            return [(np.zeros(0, np.int64), np.zeros(0, np.float32), 0, 0) for _ in queries]
        batch = make_batch([query.Q_LD for query in queries], self.table.longest, device)
        exhaustive = queries[0].probes is None
        everything = live <= (effort.candidates if math.isinf(effort.margin) else k)
        if exhaustive or everything:
            every = np.arange(live) if allowed_N is None else np.flatnonzero(allowed_N)
            pids_BK = torch.tensor(every, device=device).expand(len(batch), live)
            estimates_BK, touched = None, np.full(len(batch), live)
        else:
            pids_BK, estimates_BK, touched = self._candidates(
                batch, queries, min(k, live), deadline_s
            )
        if effort.scored == 0:
            scores_BK = self._coarse(batch, pids_BK, estimates_BK, k, deadline_s)
            scored_B = np.zeros(len(batch), np.int64)
        else:
            if exhaustive:
                scores_BK = self.precise.score(batch, pids_BK, self.budget, deadline_s)
            else:
                pids_BK, scores_BK = self._sifted(batch, pids_BK, effort, deadline_s)
            scored_B = (pids_BK >= 0).sum(dim=1).cpu().numpy()
        best_BK, best_scores_BK = best_pairs(pids_BK, scores_BK, k)
        hits, scores = best_BK.cpu().numpy(), best_scores_BK.cpu().numpy()
        counts = (hits >= 0).sum(axis=1)
        return [
            (hits[b, :count], scores[b, :count], int(touched[b]), int(scored_B[b]))
            for b, count in enumerate(counts.tolist())
        ]

    def _candidates(
        self, batch: QueryBatch, queries: Sequence[Query], wanted: int, deadline_s: float
    ) -> tuple[torch.Tensor, torch.Tensor, I64]:
        """The best candidates int64 [B, K], their estimated scores float32 [B, K], how many were
        touched; probes 4 times wider until `wanted` are."""
        effort, allowed_N = queries[0].effort, queries[0].allowed_N
        mask = None if allowed_N is None else torch.tensor(allowed_N != 0, device=self.table.device)
        probes = [query.probes for query in queries if query.probes is not None]
        check_deadline(deadline_s, "candidates")
        totals_BN = accumulate(self.arrays, probes, mask, self.budget)
        while True:
            touched_B: I64 = (totals_BN > 0).sum(dim=1).cpu().numpy()
            few = [
                b
                for b, (ids_LP, _) in enumerate(probes)
                if touched_B[b] < wanted and ids_LP.shape[1] < self.table.centroids
            ]
            if not few:
                break
            check_deadline(deadline_s, "candidates")
            for b in few:
                probes[b] = self.table.probe(queries[b].Q_LD, 4 * probes[b][0].shape[1])
            totals_BN[few] = accumulate(self.arrays, [probes[b] for b in few], mask, self.budget)
        slacks = [
            slack(scores_LP, effort.margin, length)
            for (_, scores_LP), length in zip(probes, batch.lengths_B, strict=True)
        ]
        pids_BK, totals_BK = choose(
            totals_BN, wanted, effort.candidates, np.array(slacks, np.int64)
        )
        return pids_BK, estimates(totals_BK, [scores_LP for _, scores_LP in probes]), touched_B

    def _coarse(
        self,
        batch: QueryBatch,
        pids_BK: torch.Tensor,
        estimates_BK: torch.Tensor | None,
        k: int,
        deadline_s: float,
    ) -> torch.Tensor:
        """Scores of queries that want none precise: by centroid interaction, or, where no more
        than k candidates are left, as estimated."""
        if estimates_BK is None:
            return self.interact(batch, pids_BK, deadline_s)
        many_B1 = (pids_BK >= 0).sum(dim=1, keepdim=True) > k
        scores_BK = self.interact(batch, pids_BK.masked_fill(~many_B1, -1), deadline_s)
        return torch.where(many_B1, scores_BK, estimates_BK)

    def interact(self, batch: QueryBatch, pids_BK: torch.Tensor, deadline_s: float) -> torch.Tensor:
        """Scores by centroid interaction, float32 [B, K]."""
        contexts = self.precise.contexts
        return interact(self.table, self.arrays, batch, pids_BK, contexts, self.budget, deadline_s)

    def _sifted(
        self, batch: QueryBatch, pids_BK: torch.Tensor, effort: Effort, deadline_s: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What is scored precisely, and its scores: the best by centroid interaction, as many as it
        takes. A query that has few enough keeps all of them."""
        most = max(effort.scored, effort.k)
        limit = effort.k if effort.missed > 0 else most
        crowded_B1 = (pids_BK >= 0).sum(dim=1, keepdim=True) > limit
        if not bool(crowded_B1.any()):
            return pids_BK, self.precise.score(batch, pids_BK, self.budget, deadline_s)
        coarse_BK = self.interact(batch, pids_BK.masked_fill(~crowded_B1, -1), deadline_s)
        pids_BK, coarse_BK = best_pairs(pids_BK, coarse_BK, most)
        if effort.missed > 0:
            return self._score_enough(batch, pids_BK, coarse_BK, effort, deadline_s)
        return pids_BK, self.precise.score(batch, pids_BK, self.budget, deadline_s)

    def _score_enough(
        self,
        batch: QueryBatch,
        pids_BK: torch.Tensor,
        coarse_BK: torch.Tensor,
        effort: Effort,
        deadline_s: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The best first, as `score_enough` of `reference/stopping.py`, for each query; those that
        are not scored become -1. What decides is a few numbers, and the host's."""
        spreads_B = effort.spread.astype(np.float64) * batch.lengths_B
        misses = [ExpectedMisses(effort.k, effort.missed, spread) for spread in spreads_B.tolist()]
        coarse, places_BK = coarse_BK.cpu().numpy(), np.arange(pids_BK.shape[1])[None]
        fresh, taken = places_BK.repeat(len(batch), 0) < effort.k, np.zeros(coarse.shape, np.bool_)
        pids, scores_BK = pids_BK.cpu().numpy(), torch.zeros_like(coarse_BK)
        for rounds_left in range(ROUNDS, -1, -1):
            fresh_BK = torch.tensor(fresh, device=pids_BK.device)
            some_BK = pids_BK.masked_fill(~fresh_BK, -1)
            scores_BK = scores_BK + self.precise.score(batch, some_BK, self.budget, deadline_s)
            taken |= fresh
            if rounds_left == 0:
                break
            precise = scores_BK.cpu().numpy()
            for b in np.flatnonzero(fresh.any(axis=1)).tolist():
                some = np.flatnonzero(fresh[b])
                some = some[np.argsort(pids[b, some])]
                misses[b].add(precise[b, some], coarse[b, some])
                rest = np.flatnonzero(~taken[b] & (pids[b] >= 0))
                fresh[b] = False
                if len(rest):
                    fresh[b, rest[misses[b].worth_scoring(coarse[b, rest])]] = True
            if not fresh.any():
                break
        return pids_BK.masked_fill(~torch.tensor(taken, device=pids_BK.device), -1), scores_BK
