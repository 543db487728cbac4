"""Compaction: deltas are merged and deleted passages dropped, from what is stored.

Codes, residual bits, scales and contexts are copied, never decoded: a new shard has the bytes that
writing its passages at once with this codec gives. Shards that need no change are shared with the
parent. Passages keep their order, and there are as many shards as before the deltas, or more where
they would be too large.

Shapes: N passages, T tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from colbert_core.errors import InvalidInput
from colbert_core.index import ShardEntry, ShardReader, ShardWriter
from colbert_core.types import I32, I64

if TYPE_CHECKING:
    from colbert_core.change import Change

COPIED_TOKENS = 1 << 16
SHARD_BYTES = 8 * 2**30  # of codes, residuals and scales
MOST_OVER_MEAN = 1.25  # tokens of the largest shard, before all are cut anew


@dataclass(frozen=True, slots=True)
class Run:
    """Passages `first` to `stop` (exclusive) of one of the shards that there are."""

    shard: int
    first: int
    stop: int


class LiveDocuments(NamedTuple):
    """Documents that were not deleted, ascending: passages firsts … stops − 1, and their tokens."""

    firsts_N: I64
    stops_N: I64
    tokens_N: I32


# ---------------------------------------------------------------- what goes where


def plan_compaction(
    shards: Sequence[ShardEntry],
    token_bytes: int,
    live_documents: Callable[[int], LiveDocuments],
    count: int | None = None,
) -> list[list[Run]]:
    """The runs of passages that each shard is to have, none without a live passage.

    Deltas go to the end of the last shard. If that makes it much larger than the others, or `count`
    is given, all are cut anew, into shards of about equal tokens.

    Args:
        shards: that there are.
        token_bytes: what a token takes.
        live_documents: gives those of a shard; asked only where shards are cut anew.
        count: shards to make; by default as many as there are without the deltas.
    """
    live = sum(shard.live_tokens for shard in shards)
    base = sum(not shard.delta for shard in shards)
    wanted = count or max(1, base, -(-live * token_bytes // SHARD_BYTES))
    if count is None and wanted == base:
        groups: list[list[int]] = [[] for _ in range(base)]
        for number in range(len(shards)):
            groups[min(number, base - 1)].append(number)
        tokens = [sum(shards[number].live_tokens for number in group) for group in groups]
        if max(tokens) <= MOST_OVER_MEAN * live / sum(of > 0 for of in tokens):
            whole = [[Run(n, 0, shards[n].passages) for n in group] for group in groups]
            return [runs for runs, of in zip(whole, tokens, strict=True) if of]
    return _cut_anew(len(shards), live_documents, wanted)


def _cut_anew(
    shards: int, live_documents: Callable[[int], LiveDocuments], count: int
) -> list[list[Run]]:
    found = [live_documents(number) for number in range(shards)]
    doclens_N = np.concatenate([one.tokens_N for one in found])
    ends = np.cumsum([0, *(len(one.tokens_N) for one in found)])
    groups = []
    for first, stop in shard_ranges(doclens_N, count):
        runs = []
        for number, one in enumerate(found):
            a, b = max(first, int(ends[number])), min(stop, int(ends[number + 1]))
            if a < b:
                at = int(ends[number])
                runs.append(Run(number, int(one.firsts_N[a - at]), int(one.stops_N[b - 1 - at])))
        groups.append(runs)
    return groups


def shard_ranges(doclens_N: I32, shards: int) -> list[tuple[int, int]]:
    """Contiguous runs of passages with about equal tokens; none is empty."""
    shards = min(shards, len(doclens_N))
    ends_N = np.cumsum(doclens_N, dtype=np.int64)
    cuts = [0]
    for number in range(1, shards):
        wanted = int(np.searchsorted(ends_N, ends_N[-1] * number // shards)) + 1
        cuts.append(min(max(wanted, cuts[-1] + 1), len(doclens_N) - (shards - number)))
    return list(zip(cuts, [*cuts[1:], len(doclens_N)], strict=True))


# ---------------------------------------------------------------- copying


def copy_passages(writer: ShardWriter, shard: ShardReader, first: int, stop: int) -> None:
    """Append the live passages among first … stop − 1 of a shard, as they are stored."""
    for begin, end in shard.runs(first, stop, COPIED_TOKENS):
        pids = np.arange(begin, end)
        live = np.ones(len(pids), bool) if shard.live_N is None else shard.live_N[pids] != 0
        if not live.any():
            continue
        tokens, doclens = shard.compressed(begin, end)
        documents, windows_N3 = _documents(shard, pids[live])
        rows = [shard.stored(pid) for pid in documents.tolist()]
        writer.add(
            tokens if live.all() else tokens.part(live, np.repeat(live, doclens)),
            doclens[live],
            [row.id for row in rows],
            [row.text for row in rows],
            [json.loads(row.metadata_json) if row.metadata_json else {} for row in rows],
            windows_N3,
        )


def _documents(shard: ShardReader, pids: I64) -> tuple[I64, I32 | None]:
    """The documents of passages, and which windows of them they are, as a writer takes them."""
    if shard.windows is None:
        return pids, None
    documents, owners = np.unique(shard.windows.documents_N[pids], return_inverse=True)
    windows_N3 = np.column_stack([owners, shard.windows.spans(pids)]).astype(np.int32)
    return documents.astype(np.int64), windows_N3


def live_documents(shard: ShardReader) -> LiveDocuments:
    """The documents of a shard that were not deleted."""
    offsets_N1 = shard.offsets.read(0, shard.passages + 1)
    pids = np.arange(shard.passages) if shard.live_N is None else np.flatnonzero(shard.live_N)
    if shard.windows is None:
        firsts_N, stops_N = pids, pids + 1
    else:
        starts = np.flatnonzero(shard.windows.is_first_N)
        live = np.isin(starts, pids)
        firsts_N, stops_N = starts[live], np.append(starts[1:], shard.passages)[live]
    tokens_N = (offsets_N1[stops_N] - offsets_N1[firsts_N]).astype(np.int32)
    return LiveDocuments(firsts_N, stops_N, tokens_N)


# ---------------------------------------------------------------- in a change


def write_compacted(change: Change, count: int | None = None) -> list[ShardEntry] | None:
    """Write the shards of a compacted index; None where there is nothing to do.

    Raises:
        InvalidInput: nothing is left of the index, or fewer passages than shards asked for.
    """
    shards = change.live.shards
    manifest, codec = change.live.manifest, change.live.codec
    if not manifest.passages:
        raise InvalidInput(
            f"{change.index}: every passage was deleted, and nothing is left to compact; add some, "
            "or remove the folder"
        )
    if count is not None and not 1 <= count <= manifest.documents:
        raise InvalidInput(
            f"shards is {count}; give 1 to {manifest.documents:,}, for each needs a passage"
        )
    plan = plan_compaction(
        manifest.shards,
        codec.token_bytes + 3,  # with the code and the scale
        lambda number: live_documents(shards[number]),
        count,
    )
    entries = []
    for number, runs in enumerate(plan):
        kept = _kept(manifest.shards, runs)
        entries.append(kept or _write(change, f"{change.generation}-{number:04d}", runs))
    return None if entries == list(manifest.shards) else entries


def _kept(shards: Sequence[ShardEntry], runs: Sequence[Run]) -> ShardEntry | None:
    """The shard that is these runs already."""
    entry = shards[runs[0].shard]
    same = len(runs) == 1 and (runs[0].first, runs[0].stop) == (0, entry.passages)
    return entry if same and not entry.delta and entry.tombstones is None else None


def merge_shards(change: Change, shard_id: str, shards: Sequence[ShardReader]) -> ShardEntry:
    """Write the live passages of some shards as one."""
    with ShardWriter(change.index, shard_id, change.live.codec) as writer:
        for shard in shards:
            copy_passages(writer, shard, 0, shard.passages)
        return writer.finish()


def _write(change: Change, shard_id: str, runs: Sequence[Run]) -> ShardEntry:
    with ShardWriter(change.index, shard_id, change.live.codec) as writer:
        for run in runs:
            copy_passages(writer, change.live.shards[run.shard], run.first, run.stop)
        return writer.finish()
