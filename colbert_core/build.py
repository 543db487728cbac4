"""Building an index from token vectors in one process, in memory that does not grow with them.

Three passes over the embeddings, in batches: check and count, sample and train, compress and write.

Shapes: N passages, T tokens, D dimensions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from colbert_core.codec import Codec, check_settings, train_codec
from colbert_core.codec.kmeans import SAMPLE_PER_CENTROID, default_centroids
from colbert_core.compact import shard_ranges
from colbert_core.drift import residual_norm
from colbert_core.embeddings import Embeddings, check_embeddings
from colbert_core.errors import IndexExists, InvalidInput
from colbert_core.index import (
    Manifest,
    ShardEntry,
    ShardReader,
    ShardWriter,
    new_generation_id,
    publish,
    remove_unpublished,
    write_codec,
    write_lock,
)
from colbert_core.index.manifest import CURRENT
from colbert_core.passage_columns import Columns, check_columns
from colbert_core.pooling import check_pool_factor, pool_passages, pooled_doclens
from colbert_core.search.calibrate import calibrate
from colbert_core.types import AnyArray

OnProgress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


@dataclass(frozen=True)
class Settings:
    """How to build; every value is checked before any work."""

    bits: int = 2
    codec: str = "tartan"
    centroids: int | None = None
    shards: int = 1
    seed: int = 0
    normalize: bool = False
    overwrite: bool = False
    pool_factor: int = 1


def build_from_vectors(
    path: Path,
    embeddings: Iterable[AnyArray] | AnyArray,
    doclens: Sequence[int] | AnyArray | None,
    ids: Sequence[str] | None,
    texts: Sequence[str] | None,
    metadata: Sequence[Mapping[str, Any]] | None,
    settings: Settings,
    on_progress: OnProgress | None = None,
) -> Manifest:
    """Build and publish one generation; see `Index.build`."""
    report = on_progress or (lambda _stage, _done, _total: None)
    _check_place(path, settings)
    check_pool_factor(settings.pool_factor)
    with tempfile.TemporaryDirectory(prefix="tartan-spool-") as spool:
        checked = check_embeddings(
            embeddings,
            doclens,
            settings.normalize,
            lambda dim: check_settings(name=settings.codec, bits=settings.bits, dim=dim),
            Path(spool),
            lambda number: report("read", number, 0),
        )
        columns = check_columns(len(checked.doclens_N), ids, texts, metadata)
        codec = _train(checked, settings, report)
        path.mkdir(parents=True, exist_ok=True)
        with write_lock(path):
            _check_place(path, settings)  # another may have been quicker
            return _write(path, codec, checked, columns, settings, report)


def _write(
    path: Path,
    codec: Codec,
    embeddings: Embeddings,
    columns: Columns,
    settings: Settings,
    report: OnProgress,
) -> Manifest:
    """Write everything as a generation; if it fails, remove what was written."""
    generation = new_generation_id(path)
    try:
        write_codec(path, generation, codec)
        entries = _write_shards(path, generation, codec, embeddings, columns, settings, report)
        report("calibrate", 0, 1)
        shards = [ShardReader(path, entry, codec) for entry in entries]
        presets = calibrate(shards, codec, settings.seed)
        report("calibrate", 1, 1)
        return publish(
            path,
            generation,
            generation,
            codec,
            entries,
            pool_factor=settings.pool_factor,
            presets=presets,
            extras={"seed": settings.seed, "residual_norm": round(residual_norm(shards), 4)},
        )
    except BaseException:
        remove_unpublished(path, generation)
        raise


def _write_shards(
    path: Path,
    generation: str,
    codec: Codec,
    embeddings: Embeddings,
    columns: Columns,
    settings: Settings,
    report: OnProgress,
) -> list[ShardEntry]:
    """Pool if asked, compress and write everything, passage after passage."""
    total, done, factor = embeddings.tokens, 0, settings.pool_factor
    ranges = shard_ranges(embeddings.doclens_N, settings.shards)
    batches = [embeddings.batches(range(*ends)) for ends in ranges]
    vectors = embeddings.read(chain.from_iterable(batches))
    entries = []
    for number, batches_of_shard in enumerate(batches):
        with ShardWriter(path, f"{generation}-{number:04d}", codec) as writer:
            for batch in batches_of_shard:
                start, stop = int(batch[0]), int(batch[-1]) + 1
                doclens_N = embeddings.doclens_N[start:stop]
                vectors_TD, pooled_N = next(vectors), pooled_doclens(doclens_N, factor)
                writer.add(
                    codec.compress(pool_passages(vectors_TD, doclens_N, factor), pooled_N),
                    pooled_N,
                    *columns.part(slice(start, stop)),
                )
                done += len(vectors_TD)
                report("compress", done, total)
            entries.append(writer.finish())
    return entries


def _check_place(path: Path, settings: Settings) -> None:
    if settings.shards < 1:
        raise InvalidInput(f"shards is {settings.shards}; give 1 or more")
    if (path / CURRENT).exists() and not settings.overwrite:
        raise IndexExists(
            f"{path}: there is an index here; choose another place, or overwrite=True for a new "
            "generation that replaces it"
        )


def _train(embeddings: Embeddings, settings: Settings, report: OnProgress) -> Codec:
    """Train the codec on random passages, enough of them for its centroids; never pooled ones.

    There are as many centroids as the vectors that are stored want.
    """
    total = int(pooled_doclens(embeddings.doclens_N, settings.pool_factor).sum(dtype=np.int64))
    budget = (settings.centroids or default_centroids(total)) * SAMPLE_PER_CENTROID
    passages = len(embeddings.doclens_N)
    chosen_N = np.random.default_rng(settings.seed).random(passages) < budget / embeddings.tokens
    if not chosen_N.any():
        chosen_N[:] = True
    return train_codec(
        embeddings.read(embeddings.batches(np.flatnonzero(chosen_N))),
        name=settings.codec,
        bits=settings.bits,
        centroids=settings.centroids,
        total_tokens=total,
        seed=settings.seed,
        on_iteration=lambda done, of: report("centroids", done, of),
    )
