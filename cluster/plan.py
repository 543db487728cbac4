"""The decisions of an index job, as pure functions: the same input always gives the same plan.

None of them knows how many workers there are, so the bytes of an index do not depend on it.

    corpus bytes ─ unit_budget ─ units ─┬─ choose_sample ─ which units are encoded first
                                        └─ cut_shards ─ which passages each shard takes
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from colbert_core.errors import InvalidInput
from colbert_core.types import I32
from workers.units import Unit, UnitSlice

UNITS_WANTED = 64  # of a small corpus: enough to share out, to show progress, and to lose little
WORKER_BYTES = 64 * 2**10  # of text: a CPU encodes it in about the time that a model takes to load
MIN_UNIT_BYTES = 4 * 2**10
MAX_UNIT_BYTES = 256 * 2**10  # about 65,000 tokens; their vectors fit in memory at any dimension
MAX_UNIT_PASSAGES = 2048
BYTES_PER_TOKEN = 4  # of text; only for estimates before anything is encoded
MARKERS_PER_PASSAGE = 3
SHARD_BYTES = 8 * 2**30  # of codes, residuals and scales
EXPANSION = {".gz": 4, ".zst": 4, ".bz2": 5, ".xz": 5, ".parquet": 3}


@dataclass(frozen=True, slots=True)
class UnitBudget:
    """What a unit may hold; it is closed by the passage that reaches either limit."""

    passages: int
    text_bytes: int


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """The passages `first` to `stop` (exclusive), and where they lie."""

    first: int
    stop: int
    slices: tuple[UnitSlice, ...]


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """How many workers, and what each of them gets."""

    least: int
    most: int
    cpus: float
    gpus: float
    threads: int


def unit_budget(files: Sequence[tuple[str, int]]) -> UnitBudget:
    """The size of units for corpus files, given as (last suffix, bytes on disk)."""
    text_bytes = sum(size * EXPANSION.get(suffix, 1) for suffix, size in files)
    share = text_bytes // UNITS_WANTED
    return UnitBudget(MAX_UNIT_PASSAGES, min(max(share, MIN_UNIT_BYTES), MAX_UNIT_BYTES))


def estimate_tokens(unit: Unit, doc_maxlen: int | None) -> int:
    """About how many tokens a unit has, before it is encoded; at least one per passage.

    Args:
        doc_maxlen: the most that are kept of a passage; None where long ones are split.
    """
    by_text = unit.text_bytes // BYTES_PER_TOKEN + MARKERS_PER_PASSAGE * unit.passages
    most = by_text if doc_maxlen is None else doc_maxlen * unit.passages
    return max(unit.passages, min(by_text, most))


def choose_sample(tokens: Sequence[int], target: int, seed: int) -> tuple[int, ...]:
    """Random units that together hold `target` tokens, or all of them; ascending.

    Args:
        tokens: (estimated) tokens of each unit.
        target: tokens wanted.
        seed: the same seed chooses the same units.
    """
    order = np.random.default_rng(seed).permutation(len(tokens)).tolist()
    chosen: list[int] = []
    held = 0
    for unit in order:
        if held >= target:
            break
        chosen.append(unit)
        held += tokens[unit]
    return tuple(sorted(chosen))


def shard_count(requested: int | None, *, passages: int, tokens: int, token_bytes: int) -> int:
    """How many shards: what was asked for, or as few as keep each below `SHARD_BYTES`.

    Raises:
        InvalidInput: there are fewer passages than shards.
    """
    count = requested or max(1, -(-tokens * token_bytes // SHARD_BYTES))
    if count > passages:
        raise InvalidInput(
            f"{count} shards cannot be made of {passages} passages, each needs at least one; "
            f"give --shards {passages} or less"
        )
    return count


def cut_shards(
    unit_passages: Sequence[int],
    unit_tokens: Sequence[int],
    shards: int,
    doclens: Callable[[int], I32],
) -> tuple[ShardPlan, ...]:
    """Contiguous runs of passages with about equal tokens, none empty, all passages once.

    Args:
        unit_passages, unit_tokens: of each unit, in order.
        shards: at most the number of passages.
        doclens: gives the passage lengths, int32 [N], of a unit; asked only for units that a cut
            falls into, so that memory does not grow with the corpus.
    """
    passage_ends = list(accumulate(unit_passages))
    token_ends = list(accumulate(unit_tokens))
    total = passage_ends[-1]
    cuts = [0]
    for number in range(1, shards):
        target = token_ends[-1] * number // shards
        unit = bisect_right(token_ends, target)
        before = token_ends[unit] - unit_tokens[unit]
        ends_N = np.cumsum(doclens(unit), dtype=np.int64) + before
        # The cut that lies nearest to the target: before or after the passage that holds it.
        row = int(np.searchsorted(ends_N, target, side="right"))
        start = int(ends_N[row - 1]) if row else before
        nearer_end = int(ends_N[row]) - target < target - start
        wanted = passage_ends[unit] - unit_passages[unit] + row + nearer_end
        cuts.append(min(max(wanted, cuts[-1] + 1), total - (shards - number)))
    stops = [*cuts[1:], total]
    return tuple(
        ShardPlan(first, stop, _slices(passage_ends, first, stop))
        for first, stop in zip(cuts, stops, strict=True)
    )


def _slices(passage_ends: Sequence[int], first: int, stop: int) -> tuple[UnitSlice, ...]:
    """Where the passages `first` to `stop` lie."""
    slices = []
    unit = bisect_right(passage_ends, first)
    while first < stop:
        start = passage_ends[unit - 1] if unit else 0
        end = min(stop, passage_ends[unit])
        if first < end:  # else all of the unit was left out
            slices.append(UnitSlice(unit, first - start, end - start))
        first, unit = end, unit + 1
    return tuple(slices)


def check_workers(workers: int | None, least: int | None, most: int | None) -> None:
    """Refuse numbers of workers that cannot be.

    Raises:
        InvalidInput: naming the value and the remedy.
    """
    if workers is not None and (least is not None or most is not None):
        raise InvalidInput(
            "workers is the least and the most at once; give either --workers or --min-workers "
            "and --max-workers"
        )
    for name, value in (("workers", workers), ("min-workers", least), ("max-workers", most)):
        if value is not None and value < 1:
            raise InvalidInput(f"{name} is {value}; give 1 or more, or leave it out")
    if most is not None and (least or 1) > most:
        raise InvalidInput(
            f"min-workers is {least} and max-workers is {most}; give a most that is not below "
            "the least"
        )


def plan_workers(
    workers: int | None,
    least: int | None,
    most: int | None,
    *,
    text_bytes: int,
    cpus: int,
    gpus: int,
    device: str | None = None,
) -> WorkerPlan:
    """Workers for a cluster: one per GPU, else one per CPU with one thread, and no more than there
    is work for.

    One thread per worker is the fastest use of CPUs for encoding, and keeps sums in one order.

    Args:
        workers: exactly so many; on CPUs, at most one for each. They share GPUs evenly.
        least, most: bounds within which their number follows the cluster.
        text_bytes: of the corpus; none but the first worker starts for less than `WORKER_BYTES`.
        cpus, gpus: what the cluster has now; with a GPU, workers want one.
        device: "cuda" wants GPUs where there are none yet, and "cpu" none where there are.

    Raises:
        InvalidInput: as `check_workers`.
    """
    check_workers(workers, least, most)
    if device is not None:
        gpus = max(1, gpus) if device == "cuda" else 0
    if workers is None:
        least, useful = least or 1, -(-text_bytes // WORKER_BYTES)
        most = max(least, useful if most is None else min(most, useful))
        return WorkerPlan(least, most, 1.0, 1.0 if gpus else 0.0, 1)
    if gpus:
        return WorkerPlan(workers, workers, 1.0, 1.0 / -(-workers // gpus), 1)
    count = min(workers, max(1, cpus))
    return WorkerPlan(count, count, 1.0, 0.0, 1)
