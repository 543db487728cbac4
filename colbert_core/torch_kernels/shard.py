"""One shard on a device: the calls of the native `Shard`, and the same for many queries at once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from colbert_core.errors import InvalidInput
from colbert_core.hardware import DEVICE_BATCH
from colbert_core.reference.checks import (
    check_array,
    check_deadline,
    check_probes,
    check_query,
    require,
)
from colbert_core.reference.choosing import MOST, check_margin, check_stopping
from colbert_core.torch_kernels.arrays import load_arrays
from colbert_core.torch_kernels.candidates import Probes
from colbert_core.torch_kernels.combine import Combiner
from colbert_core.torch_kernels.device import BUDGET
from colbert_core.torch_kernels.queries import QueryBatch, make_batch
from colbert_core.torch_kernels.scoring import PreciseScorer
from colbert_core.torch_kernels.stages import Effort, Found, Query, Stages
from colbert_core.torch_kernels.table import TorchTable
from colbert_core.types import F32, I32, I64, U8

if TYPE_CHECKING:
    from colbert_core.kernels import Shard


class TorchShard:
    """The arrays of one shard on a device and the search over them. Immutable and thread-safe.

    Args:
        table: the global centroids on the device.
        host: the same shard's native kernel. It has checked the arrays; explanations and decoding,
            of a passage or so each, are its own.
        codes, …, normalize: as the native `Shard` takes them.
        budget: bytes that the temporary arrays of one step may take, about; one query's and one
            passage's are taken in any case.

    Raises:
        ValueError: a code or an offset cannot be.
        InvalidInput: the arrays do not fit on the device.
    """

    def __init__(
        self,
        table: TorchTable,
        host: Shard,
        codes: U8,
        residuals_TB: U8,
        scales_T: U8,
        contexts_NX: U8 | None,
        offsets: U8,
        bits: int,
        levels: F32,
        alpha: F32,
        beta: F32,
        centroids_f32: F32 | None,
        normalize: bool,
        budget: int = BUDGET,
    ) -> None:
        self.table, self.host, self.budget = table, host, budget
        self.dim, self.tokens, self.passages = table.dim, host.tokens, host.passages
        try:
            self.arrays = load_arrays(
                host.passages,
                table.centroids,
                codes,
                residuals_TB,
                scales_T,
                contexts_NX,
                offsets,
                table.device,
            )
        except torch.OutOfMemoryError as error:
            raise InvalidInput(
                f"a shard of {self.tokens:,} tokens ({residuals_TB.nbytes:,} bytes of residuals) "
                f"does not fit on {table.device}: build the index with more shards, spread them "
                "over more GPUs, or search with device cpu"
            ) from error
        self._precise = PreciseScorer(
            table, self.arrays, bits, levels, alpha, beta, centroids_f32, normalize
        )
        self._stages = Stages(table, self.arrays, self._precise, budget)
        self._combine: Combiner[Query, Found] = Combiner(self._stages.run, DEVICE_BATCH)

    # ------------------------------------------------------------ the native kernel's calls

    def search(
        self,
        Q_LD: F32,
        probe_ids_LP: I32,
        probe_scores_LP: F32,
        k: int,
        candidates: int,
        allowed_N: U8 | None = None,
        deadline_s: float = 0.0,
        margin: float = math.inf,
        scored: int = MOST,
        missed: float = 0.0,
        spread: float = 0.0,
    ) -> Found:
        """As the native `Shard.search`. Calls of several threads are answered in one batch."""
        effort = self._effort(k, candidates, margin, scored, missed, spread)
        return self._ask(Q_LD, (probe_ids_LP, probe_scores_LP), effort, allowed_N, deadline_s)

    def exhaustive(
        self, Q_LD: F32, k: int, allowed_N: U8 | None = None, deadline_s: float = 0.0
    ) -> Found:
        """As `search`, with every allowed passage scored precisely."""
        effort = self._effort(k, 1, math.inf, MOST, 0.0, 0.0)
        return self._ask(Q_LD, None, effort, allowed_N, deadline_s)

    def approximate(
        self,
        Q_LD: F32,
        probe_ids_LP: I32,
        probe_scores_LP: F32,
        allowed_N: U8 | None = None,
        first: int = 0,
        last: int | None = None,
    ) -> tuple[I64, F32]:
        """As the native `Shard.approximate`; the calibration's, and so the host's."""
        return self.host.approximate(Q_LD, probe_ids_LP, probe_scores_LP, allowed_N, first, last)

    def interaction(self, Q_LD: F32, pids: I64) -> F32:
        """Scores by centroid interaction, float32 [M], of the passages `pids`, int64 [M]."""
        batch, pids_BK = self._pairs(Q_LD, pids)
        scores: F32 = self._stages.interact(batch, pids_BK, 0.0)[0].cpu().numpy()
        return scores

    def score(self, Q_LD: F32, pids: I64) -> F32:
        """Precise MaxSim, float32 [M], of the passages `pids`, int64 [M], in their order."""
        batch, pids_BK = self._pairs(Q_LD, pids)
        scores: F32 = self._precise.score(batch, pids_BK, self.budget, 0.0)[0].cpu().numpy()
        return scores

    def match(self, Q_LD: F32, pid: int) -> tuple[I32, F32]:
        """As the native `Shard.match`."""
        return self.host.match(Q_LD, pid)

    def decode(self, first_token: int, count: int) -> F32:
        """As the native `Shard.decode`."""
        return self.host.decode(first_token, count)

    # ------------------------------------------------------------ arguments

    def _effort(
        self, k: int, candidates: int, margin: float, scored: int, missed: float, spread: float
    ) -> Effort:
        require(k >= 1, f"k {k} must be at least 1")
        require(candidates >= 1, f"candidates {candidates} must be at least 1")
        require(scored >= 0, f"scored {scored} must be at least 0")
        first = check_margin(margin)
        return Effort(k, max(candidates, k), float(first), scored, *check_stopping(missed, spread))

    def _pairs(self, Q_LD: F32, pids: I64) -> tuple[QueryBatch, torch.Tensor]:
        """A batch of one query, and the passages that it is to be scored with, int64 [1, M]."""
        check_query(Q_LD, self.dim)
        check_array("pids", pids, 1, "int64")
        for pid in pids:
            require(0 <= pid < self.passages, f"passage {pid} is not one of {self.passages}")
        batch = make_batch([Q_LD], self.table.longest, self.table.device)
        return batch, torch.tensor(pids[None], device=self.table.device)

    def _query(
        self,
        Q_LD: F32,
        probes: Probes | None,
        effort: Effort,
        allowed_N: U8 | None,
        deadline_s: float,
    ) -> Query:
        check_query(Q_LD, self.dim)
        if probes is not None:
            check_probes(*probes, len(Q_LD), self.table.centroids)
        if allowed_N is not None:
            check_array("allowed_N", allowed_N, 1, "uint8")
            require(
                len(allowed_N) == self.passages,
                f"allowed_N has {len(allowed_N)} entries, expected {self.passages}",
            )
        return Query(Q_LD, probes, allowed_N, effort, deadline_s)

    def _ask(
        self,
        Q_LD: F32,
        probes: Probes | None,
        effort: Effort,
        allowed_N: U8 | None,
        deadline_s: float,
    ) -> Found:
        query = self._query(Q_LD, probes, effort, allowed_N, deadline_s)
        check_deadline(deadline_s, "waiting for the device")
        found = self._combine((effort, id(allowed_N), probes is None), query)
        check_deadline(deadline_s, "search on the device")
        return found
