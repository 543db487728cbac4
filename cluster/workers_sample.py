"""The vectors that a codec is trained on, left with the workers: the driver's side of k-means.

Shapes: S sample vectors, D dimensions, C centroids, M rows asked for.

    round's centroids ─ object store ─┬─ worker: codes and sums of its units ─┬─ tree ─ driver
                                      └─ worker: codes and sums of its units ─┘

A sample is the sampled units in order. Every round its units are shared out among the workers that
there are; sums are integers, so neither that, nor who adds them, nor in which order, shows in a
bit of the result. Sums lie in the object store of the worker that made them: those of a worker that
is lost are made again, from the codes of the last round, which are files.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, cast

import numpy as np
import ray

from cluster.attempts import MAX_LOSSES
from cluster.worker_pool import WorkerPool
from cluster.worker_run import Work
from cluster.worker_slots import FETCH_TIMEOUT_S, LOST
from colbert_core.codec.rows import Rows
from colbert_core.errors import JobFailed
from colbert_core.text.projection import principal_directions
from colbert_core.types import F32, F64, I32, I64
from workers.encoder import UnitResult
from workers.sample_worker import Missing, Round, Space, SumsRef, Units, sample_folder
from workers.units import Staging

PCA_TOKENS = 200_000
"""Vectors that PCA is fitted on; 2^18 of them sum exactly (`projection.on_grid`)."""
FAN_IN = 4
"""Sums that are added by one worker, and at the end by the driver."""
_UNITS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class _Sums:
    """Sums over some shares of the sample, wherever they lie."""

    shares: tuple[Units, ...]
    held: SumsRef


class WorkersSample:
    """Sampled units as a `colbert_core.codec.sample.Sample`; `prepare` comes first.

    Args:
        pool: the workers.
        name: of the folder in the staging folder.
        units: what is sampled, whose vectors are kept.
    """

    def __init__(self, pool: WorkerPool, name: str, units: Sequence[UnitResult]) -> None:
        self._pool = pool
        self._name = name
        self._units = tuple(unit.unit for unit in units)
        self._lengths = [unit.tokens for unit in units]
        self._ends = np.array([0, *accumulate(self._lengths)])
        self._rounds = 0
        self._losses = 0

    def __len__(self) -> int:
        return int(self._ends[-1])

    def projection(self, model_dim: int, dim: int, seed: int) -> F32 | None:
        """PCA to `dim` dimensions on a random share of the vectors; None where none is to go."""
        if dim >= model_dim:
            return None
        share = min(1.0, PCA_TOKENS / len(self))
        moments = self._run("fitting the projection", "moment", self._few(), share, seed)
        return principal_directions(cast(F64, sum(moments)), dim)

    def prepare(self, projection: F32 | None, rotation_DD: F32 | None) -> None:
        """Bring the vectors into the codec's space.

        Raises:
            JobFailed: there are not as many as were written.
        """
        space = ray.put(Space(projection, rotation_DD))
        counts = self._run("preparing the sample", "prepare", self._few(), space, in_folder=True)
        found = [count for few in counts for count in few]
        if found != self._lengths:
            raise JobFailed(
                f"the sample has {sum(found):,} vectors and {len(self):,} were written; something "
                "else changes the staging folder"
            )

    def rows(self, which_M: I64) -> Rows:
        """Some of the vectors, at least one, in the order asked for."""
        order_M = np.argsort(which_M, kind="stable")
        ends = np.searchsorted(which_M[order_M], self._ends)
        wanted = [
            (unit, which_M[order_M[ends[n] : ends[n + 1]]] - self._ends[n])
            for n, unit in enumerate(self._units)
            if ends[n] < ends[n + 1]
        ]
        pieces = [tuple(wanted[at : at + _UNITS_AT_ONCE]) for at in _steps(len(wanted))]
        found = self._run("fetching vectors", "rows", pieces, in_folder=True)
        place_M = np.empty_like(order_M)
        place_M[order_M] = np.arange(len(order_M))
        return Rows.gather(found)[place_M]

    def assign(self, centroids_CD: F32, rank_C: I32 | None) -> I64:
        """See `Sample.assign`."""
        task = ray.put(Round(self._rounds, centroids_CD, rank_C))
        self._rounds += 1
        parts = self._assigned(self._shares(), task)
        while len(parts) > FAN_IN:
            parts = self._added(parts, task)
        total_CD: I64 = np.zeros(centroids_CD.shape, np.int64)
        while parts:
            part = parts.pop()
            try:
                total_CD += ray.get(part.held.ref, timeout=FETCH_TIMEOUT_S)
            except LOST:
                parts += self._again([part], task)
        return total_CD

    def _shares(self) -> list[Units]:
        """The units, shared out among the workers that are ready, evenly by vectors."""
        workers = max(1, len(self._pool.slots.ready))
        middles = self._ends[:-1] + np.array(self._lengths) / 2  # ascending
        cuts = np.searchsorted(middles * workers, len(self) * np.arange(workers + 1)).tolist()
        shares = [self._units[start:stop] for start, stop in pairwise([*cuts[:-1], None])]
        return [share for share in shares if share]

    def _assigned(self, shares: Sequence[Units], task: Any) -> list[_Sums]:
        found = self._run("assigning", "assign", shares, task, in_folder=True)
        return [_Sums((share,), held) for share, held in zip(shares, found, strict=True)]

    def _added(self, parts: list[_Sums], task: Any) -> list[_Sums]:
        """One level of the tree; what turns out to be lost is made again, in parts."""
        batches = [parts[at : at + FAN_IN] for at in range(0, len(parts), FAN_IN)]
        held = [tuple(part.held for part in batch) for batch in batches]
        sums: list[_Sums] = []
        lost: list[_Sums] = []
        for batch, found in zip(batches, self._run("adding", "add", held), strict=True):
            if isinstance(found, Missing):
                for position, part in enumerate(batch):
                    (lost if position in found.positions else sums).append(part)
            else:
                sums.append(_Sums(tuple(s for part in batch for s in part.shares), found))
        return sums + self._again(lost, task)

    def _again(self, lost: Sequence[_Sums], task: Any) -> list[_Sums]:
        self._losses += len(lost)
        if self._losses > MAX_LOSSES * max(len(self._units), len(self._pool.slots.open)):
            raise JobFailed(
                f"the sums of {self._losses} shares of the sample were lost with their workers, or "
                "did not arrive; check the memory of the workers and the network between them"
            )
        return self._assigned([share for part in lost for share in part.shares], task)

    def _few(self) -> list[Units]:
        return [self._units[at : at + _UNITS_AT_ONCE] for at in _steps(len(self._units))]

    def _run(
        self,
        what: str,
        method: str,
        pieces: Sequence[Any],
        *more: Any,
        in_folder: bool = False,
    ) -> list[Any]:
        """Call a method of the workers on some pieces of the sample; results in their order."""
        first = (self._name,) if in_folder else ()
        works = [
            Work((method, n), f"{what} (part {n + 1} of {len(pieces)})", method, (*first, p, *more))
            for n, p in enumerate(pieces)
        ]
        found: dict[Any, Any] = {}
        self._pool.run(works, lambda work, result: found.update({work.key: result}))
        return [found[work.key] for work in works]


def _steps(count: int) -> range:
    return range(0, count, _UNITS_AT_ONCE)


@contextmanager
def workers_sample(
    pool: WorkerPool, staging: Staging, units: Sequence[UnitResult]
) -> Iterator[WorkersSample]:
    """A sample on workers; its files go when the block ends, and those of drivers that were killed
    go first."""
    for left_over in staging.folder.glob("sample-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    name = secrets.token_hex(4)
    folder = sample_folder(staging, name)
    folder.mkdir()
    try:
        yield WorkersSample(pool, name, units)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
