"""Changing an index: add, replace and delete passages, each change a new generation.

    add      new passages become a delta shard under the index's own codec
    replace  that, and the old passages of these ids get tombstones
    delete   tombstones
    compact  deltas are merged into the base, and what was deleted is dropped (compact.py)

Shards never change and ids never shift. A generation shares the codec and all shards with the one
before it, so a change costs what it adds. What is searched is the same as if one index had been
built of the passages that are left, in their order, with the same codec and the same shards.

Shapes: N passages that are added, M ids, T tokens, D dimensions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from colbert_core.compact import merge_shards, write_compacted
from colbert_core.drift import with_drift
from colbert_core.embeddings import Embeddings, check_embeddings
from colbert_core.errors import CorpusError, IndexMissing, InvalidInput
from colbert_core.index import (
    Generation,
    Manifest,
    ShardEntry,
    ShardReader,
    ShardWriter,
    new_generation_id,
    open_generation,
    publish_change,
    remove_unpublished,
    write_lock,
    write_tombstones,
)
from colbert_core.index.leftovers import remove
from colbert_core.index.manifest import CURRENT
from colbert_core.index.presets import CALIBRATED_ON
from colbert_core.passage_columns import Columns, check_columns, check_ids
from colbert_core.pooling import pool_passages, pooled_doclens
from colbert_core.search.calibrate import calibrate
from colbert_core.types import I64, AnyArray

if TYPE_CHECKING:
    from colbert_core.build import OnProgress

SHOWN_IDS = 5


@dataclass(frozen=True)
class Change:
    """A change in progress: the index, its live generation, and the id of the next."""

    index: Path
    live: Generation
    generation: str


@contextmanager
def changing(path: Path) -> Iterator[Change]:
    """Hold an index for one change; if the block fails, what it wrote is removed.

    Raises:
        IndexMissing: there is no index at `path`.
        IndexExists: another writer is at work there.
        InvalidInput: the folder cannot be written.
    """
    if not (path / CURRENT).exists():
        raise IndexMissing(
            f"{path}: there is no index here (no {CURRENT} file); "
            "build one with `tartan index build CORPUS --out INDEX`"
        )
    with write_lock(path):
        change = Change(path, open_generation(path), new_generation_id(path))
        try:
            yield change
        except BaseException:
            remove_unpublished(path, change.generation)
            raise


def add_passages(
    path: Path,
    embeddings: Iterable[AnyArray] | AnyArray,
    ids: Sequence[str],
    *,
    doclens: Sequence[int] | AnyArray | None = None,
    texts: Sequence[str] | None = None,
    metadata: Sequence[Mapping[str, Any]] | None = None,
    replace: bool = False,
    normalize: bool = False,
    on_progress: OnProgress | None = None,
) -> Manifest:
    """Compress passages with the index's codec, and publish them; see `Index.add`."""
    report = on_progress or (lambda _stage, _done, _total: None)
    check_ids(ids)
    with changing(path) as change, tempfile.TemporaryDirectory(prefix="tartan-spool-") as spool:
        dead = find_present(change.live, ids, replace=replace)
        checked = check_embeddings(
            embeddings,
            doclens,
            normalize,
            lambda dim: _check_dim(change.live, dim),
            Path(spool),
            lambda number: report("read", number, 0),
        )
        columns = check_columns(len(checked.doclens_N), ids, texts, metadata)
        entry = _write_delta(change, checked, columns, report)
        return publish_added(change, [entry], dead)


def delete_passages(path: Path, ids: Iterable[str], *, missing_ok: bool = False) -> Manifest:
    """Delete passages and publish what is left; see `Index.delete`."""
    wanted = list(dict.fromkeys(ids))
    for one in wanted:
        if not isinstance(one, str) or not one:
            raise InvalidInput(f"id {one!r} is not a non-empty string")
    with changing(path) as change:
        dead = find_ids(change.live.shards, wanted)
        found = {place for places_F, _ in dead for place in places_F.tolist()}
        if len(found) < len(wanted) and not missing_ok:
            missing = [one for place, one in enumerate(wanted) if place not in found]
            raise InvalidInput(
                f"{path}: {_named(missing)} not in the index; nothing was deleted: leave "
                f"{'it' if len(missing) == 1 else 'them'} out, or allow what is missing "
                "(missing_ok, --missing-ok)"
            )
        if not found:
            return change.live.manifest
        return publish_change(path, change.live.manifest, change.generation, bury(change, dead))


def find_present(live: Generation, ids: Sequence[str], *, replace: bool) -> list[tuple[I64, I64]]:
    """Where ids that are to be added are already; see `find_ids`.

    Raises:
        CorpusError: some are, and they are not to be replaced.
    """
    present = find_ids(live.shards, ids)
    places = sorted(place for places_F, _ in present for place in places_F.tolist())
    if places and not replace:
        taken = [ids[place] for place in places]
        raise CorpusError(
            f"{live.path}: {_named(taken)} in the index already; nothing was added: give other "
            "ids, or replace those passages (replace=True, --replace)"
        )
    return present


def find_ids(shards: Sequence[ShardReader], ids: Sequence[str]) -> list[tuple[I64, I64]]:
    """For each shard, which of `ids` are live passages of it: places in `ids`, and passages."""
    import pyarrow as pa

    wanted = pa.array(ids, pa.string())
    return [shard.find(wanted) for shard in shards]


def publish_added(
    change: Change, added: Sequence[ShardEntry], dead: Sequence[tuple[I64, I64]], truncated: int = 0
) -> Manifest:
    """Publish written shards behind the live ones, which lose what is dead."""
    manifest = change.live.manifest
    deltas = [replace(entry, delta=True) for entry in added]
    extras = with_drift(manifest, change.live.shards, _readers(change, deltas))
    return publish_change(
        change.index,
        manifest,
        change.generation,
        _folded(change, [*bury(change, dead), *deltas]),
        truncated=manifest.truncated + truncated,
        extras=extras,
    )


def compact_index(path: Path, shards: int | None = None) -> Manifest:
    """Merge deltas and drop what was deleted, and publish that; see `Index.compact`."""
    with changing(path) as change:
        live, codec = change.live.manifest, change.live.codec
        entries = write_compacted(change, shards)
        if entries is None:
            return live
        presets = calibrate(_readers(change, entries), codec, int(live.extras.get("seed", 0)))
        extras = {name: value for name, value in live.extras.items() if name != CALIBRATED_ON}
        return publish_change(
            path, live, change.generation, entries, presets=presets, extras=extras
        )


def _folded(change: Change, entries: list[ShardEntry]) -> list[ShardEntry]:
    """The shards with small deltas merged into the last, so that n changes leave log n of them."""
    entries, first = list(entries), foldable(entries)
    if first == len(entries) - 1:
        return entries
    known = {shard.id for shard in change.live.manifest.shards}
    merged = f"{change.generation}-{len(entries):04d}"
    entry = merge_shards(change, merged, _readers(change, entries[first:]))
    for small in entries[first:]:
        if small.id not in known:  # this change's own: in no generation
            remove(change.index / "shards" / small.id)
    return [*entries[:first], replace(entry, delta=True)]


def foldable(entries: Sequence[ShardEntry]) -> int:
    """The first of the deltas at the end that are worth merging: each no larger than what follows
    it, so that a passage is copied log n times while n are added. The last shard if none is."""
    first, tokens = len(entries) - 1, entries[-1].live_tokens
    while entries[first].delta and first > 0:
        before = entries[first - 1]
        if not before.delta or before.live_tokens > tokens:
            break
        first, tokens = first - 1, tokens + before.live_tokens
    return first


def _readers(change: Change, entries: Sequence[ShardEntry]) -> list[ShardReader]:
    return [ShardReader(change.index, entry, change.live.codec) for entry in entries]


def bury(change: Change, dead: Sequence[tuple[I64, I64]]) -> list[ShardEntry]:
    """The live shards with tombstones for what is dead, beside those that they have."""
    entries = []
    for number, (shard, (_, pids)) in enumerate(zip(change.live.shards, dead, strict=True)):
        if not len(pids):
            entries.append(shard.entry)
            continue
        live_N = np.ones(shard.passages, np.uint8) if shard.live_N is None else shard.live_N.copy()
        live_N[shard.with_windows(pids)] = 0
        pids_M = np.flatnonzero(live_N == 0)
        offsets_N1 = shard.offsets.read(0, shard.passages + 1)
        tokens = int((offsets_N1[pids_M + 1] - offsets_N1[pids_M]).sum())
        name = f"{change.generation}-{number:04d}"
        later = 0 if shard.windows is None else int((~shard.windows.is_first_N[pids_M]).sum())
        stones = write_tombstones(change.index, name, pids_M, tokens, later)
        entries.append(replace(shard.entry, tombstones=stones))
    return entries


def _write_delta(
    change: Change, embeddings: Embeddings, columns: Columns, report: OnProgress
) -> ShardEntry:
    codec, factor = change.live.codec, change.live.manifest.pool_factor
    batches = embeddings.batches(range(len(embeddings.doclens_N)))
    done = 0
    with ShardWriter(change.index, f"{change.generation}-0000", codec) as writer:
        for batch, vectors_TD in zip(batches, embeddings.read(batches), strict=True):
            rows = slice(int(batch[0]), int(batch[-1]) + 1)
            doclens_N = embeddings.doclens_N[rows]
            pooled_N = pooled_doclens(doclens_N, factor)
            tokens = codec.compress(pool_passages(vectors_TD, doclens_N, factor), pooled_N)
            writer.add(tokens, pooled_N, *columns.part(rows))
            done += len(vectors_TD)
            report("compress", done, embeddings.tokens)
        return writer.finish()


def _check_dim(live: Generation, dim: int) -> None:
    if dim != live.codec.dim:
        raise InvalidInput(
            f"vectors have {dim} dimensions and those of the index {live.codec.dim}; encode with "
            "the model that the index was built with"
        )


def _named(ids: Sequence[str]) -> str:
    """Some ids, and the verb that follows."""
    shown = ", ".join(repr(one) for one in ids[:SHOWN_IDS])
    more = f" and {len(ids) - SHOWN_IDS:,} more" if len(ids) > SHOWN_IDS else ""
    return f"id {shown} is" if len(ids) == 1 else f"ids {shown}{more} are"
