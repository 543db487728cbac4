"""Building an index from token vectors in one process, in memory that does not grow with them.

Three passes over the embeddings: check and count, sample and train, compress and write. What can
be iterated only once is spooled to disk in fp16 first.

Shapes: N passages, T tokens, S sample tokens, D dimensions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from colbert_core.codec import Codec, check_settings, train_codec
from colbert_core.errors import CorpusError, IndexExists, InvalidInput
from colbert_core.index import (
    Manifest,
    ShardReader,
    ShardWriter,
    new_generation_id,
    publish,
    write_codec,
)
from colbert_core.index.manifest import CURRENT
from colbert_core.search.calibrate import calibrate
from colbert_core.types import F32, I32, AnyArray

BATCH_TOKENS = 1 << 16
NORM_TOLERANCE = 0.02

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


def build_from_vectors(
    path: Path,
    embeddings: Iterable[AnyArray],
    ids: Sequence[str] | None,
    texts: Sequence[str] | None,
    metadata: Sequence[Mapping[str, Any]] | None,
    settings: Settings,
    on_progress: OnProgress | None = None,
) -> Manifest:
    """Build and publish one generation; see `Index.build`."""
    report = on_progress or (lambda _stage, _done, _total: None)
    _check_place(path, settings)
    with tempfile.TemporaryDirectory(prefix="tartan-spool-") as spool:
        source, doclens_N, dim = _read(embeddings, settings, Path(spool), report)
        names = _check_columns(len(doclens_N), ids, texts, metadata)
        total = int(doclens_N.sum())
        codec = _train(source, doclens_N, dim, settings, report)
        generation = new_generation_id(path)
        write_codec(path, generation, codec)
        passages = iter(source())
        entries = []
        for number, (first, last) in enumerate(_shard_ranges(doclens_N, settings.shards)):
            with ShardWriter(path, f"{generation}-{number:04d}", codec) as writer:
                for start, stop in _batches(doclens_N, first, last):
                    vectors_TD = np.concatenate(list(islice(passages, stop - start)))
                    writer.add(
                        codec.compress(vectors_TD),
                        doclens_N[start:stop],
                        names[start:stop],
                        texts[start:stop] if texts else None,
                        metadata[start:stop] if metadata else None,
                    )
                    report("compress", int(doclens_N[:stop].sum()), total)
                entries.append(writer.finish())
        report("calibrate", 0, 1)
        shards = [ShardReader(path, entry, codec) for entry in entries]
        presets = calibrate(shards, codec, settings.seed)
        return publish(path, generation, generation, codec, entries, presets=presets)


def _check_place(path: Path, settings: Settings) -> None:
    if settings.shards < 1:
        raise InvalidInput(f"shards is {settings.shards}; give 1 or more")
    if (path / CURRENT).exists() and not settings.overwrite:
        raise IndexExists(
            f"{path}: there is an index here; choose another place, or overwrite=True for a new "
            "generation that replaces it"
        )


def _check_columns(
    count: int,
    ids: Sequence[str] | None,
    texts: Sequence[str] | None,
    metadata: Sequence[Mapping[str, Any]] | None,
) -> list[str]:
    for name, column in (("ids", ids), ("texts", texts), ("metadata", metadata)):
        if column is not None and len(column) != count:
            raise InvalidInput(f"{len(column)} {name} do not fit {count} passages")
    if ids is None:
        return [str(number) for number in range(count)]
    first: dict[str, int] = {}
    for number, one in enumerate(ids):
        if not isinstance(one, str) or not one:
            raise CorpusError(f"id {one!r} of passage {number} is not a non-empty string")
        if one in first:
            raise CorpusError(f"id {one!r} is given twice: to passages {first[one]} and {number}")
        first[one] = number
    return list(ids)


def _read(
    embeddings: Iterable[AnyArray], settings: Settings, spool: Path, report: OnProgress
) -> tuple[Callable[[], Iterator[F32]], I32, int]:
    """Check every passage once → (what gives them again, lengths int32 [N], dimensions)."""
    once = iter(embeddings) is embeddings
    doclens: list[int] = []
    dim = 0
    file = (spool / "vectors.fp16").open("wb") if once else None
    for number, one in enumerate(embeddings):
        vectors_TD = _check_passage(one, number, dim, settings)
        if not dim:
            dim = vectors_TD.shape[1]
            check_settings(name=settings.codec, bits=settings.bits, dim=dim)
        doclens.append(len(vectors_TD))
        if file:
            vectors_TD.astype(np.float16).tofile(file)
        if number % 1000 == 0:
            report("read", number, 0)
    if file:
        file.close()
    if not doclens:
        raise CorpusError("there are no passages; an index needs at least one")
    if once:
        return (lambda: _replay(spool / "vectors.fp16", doclens, dim)), np.array(doclens, "i4"), dim

    def again() -> Iterator[F32]:
        for number, one in enumerate(embeddings):
            yield _check_passage(one, number, dim, settings)

    return again, np.array(doclens, np.int32), dim


def _replay(path: Path, doclens: list[int], dim: int) -> Iterator[F32]:
    file: BinaryIO
    with path.open("rb") as file:
        for length in doclens:
            flat = np.fromfile(file, np.float16, length * dim)
            yield flat.reshape(length, dim).astype(np.float32)


def _check_passage(one: AnyArray, number: int, dim: int, settings: Settings) -> F32:
    """One passage as float32 [T, D] of unit vectors, or an error that names it."""
    try:
        vectors_TD: F32 = np.ascontiguousarray(one, np.float32)
    except (TypeError, ValueError) as error:
        raise CorpusError(f"passage {number} is not an array of numbers: {error}") from error
    if vectors_TD.ndim != 2 or not len(vectors_TD):
        raise CorpusError(
            f"passage {number} has shape {vectors_TD.shape}; give [tokens, dim] with tokens > 0"
        )
    if dim and vectors_TD.shape[1] != dim:
        raise CorpusError(
            f"passage {number} has {vectors_TD.shape[1]} dimensions and the ones before it {dim}"
        )
    norms_T = np.sqrt(np.einsum("td,td->t", vectors_TD, vectors_TD))
    if not np.isfinite(norms_T).all():
        raise CorpusError(f"passage {number} holds NaN or infinity; check the model's output")
    if settings.normalize:
        vectors_TD = vectors_TD / np.maximum(norms_T, 1e-12)[:, None]
    elif abs(norms_T[worst := int(np.abs(norms_T - 1).argmax())] - 1) > NORM_TOLERANCE:
        raise CorpusError(
            f"passage {number}, token {worst}: the vector's length is {norms_T[worst]:.4g} and "
            "must be 1; normalise the vectors, or pass normalize=True"
        )
    return vectors_TD


def _train(
    source: Callable[[], Iterator[F32]],
    doclens_N: I32,
    dim: int,
    settings: Settings,
    report: OnProgress,
) -> Codec:
    from colbert_core.codec.kmeans import SAMPLE_PER_CENTROID, default_centroids

    total = int(doclens_N.sum())
    budget = (settings.centroids or default_centroids(total)) * SAMPLE_PER_CENTROID
    share = min(1.0, 1.05 * budget / total)
    chosen_N = np.random.default_rng(settings.seed).random(len(doclens_N)) < share
    if not chosen_N.any():
        chosen_N[:] = True
    sample_SD = np.empty((int(doclens_N[chosen_N].sum()), dim), np.float32)
    filled = 0
    for vectors_TD, chosen in zip(source(), chosen_N, strict=True):
        if chosen:
            sample_SD[filled : filled + len(vectors_TD)] = vectors_TD
            filled += len(vectors_TD)
    return train_codec(
        sample_SD,
        name=settings.codec,
        bits=settings.bits,
        centroids=settings.centroids,
        total_tokens=total,
        seed=settings.seed,
        on_iteration=lambda done, of: report("centroids", done, of),
    )


def _shard_ranges(doclens_N: I32, shards: int) -> list[tuple[int, int]]:
    """Contiguous runs of passages with about equal tokens; none is empty."""
    shards = min(shards, len(doclens_N))
    ends_N = np.cumsum(doclens_N, dtype=np.int64)
    cuts = [0]
    for number in range(1, shards):
        wanted = int(np.searchsorted(ends_N, ends_N[-1] * number // shards)) + 1
        cuts.append(min(max(wanted, cuts[-1] + 1), len(doclens_N) - (shards - number)))
    return list(zip(cuts, [*cuts[1:], len(doclens_N)], strict=True))


def _batches(doclens_N: I32, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Runs of passages of about `BATCH_TOKENS` tokens, at least one passage each."""
    start, tokens = first, 0
    for number in range(first, last):
        tokens += int(doclens_N[number])
        if tokens >= BATCH_TOKENS:
            yield start, number + 1
            start, tokens = number + 1, 0
    if start < last:
        yield start, last
