"""What tests of changes share: passages, and an index written at once as what to compare with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from colbert_core import Index
from colbert_core.codec import Codec
from colbert_core.index import ShardWriter, publish, write_codec
from colbert_core.types import F32

DIM = 32


def passage(seed: int, dim: int = DIM) -> F32:
    """Unit vectors of one passage, 1 to 11 tokens."""
    rng = np.random.default_rng([7, seed])
    x = rng.standard_normal((rng.integers(1, 12), dim)).astype(np.float32)
    unit: F32 = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit


def query(seed: int, tokens: int = 6, dim: int = DIM) -> F32:
    """A query of unit vectors."""
    x = np.random.default_rng([11, seed]).standard_normal((tokens, dim)).astype(np.float32)
    unit: F32 = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit


def written_at_once(
    path: Path, codec: Codec, passages: Mapping[str, F32], cuts: Sequence[int] = ()
) -> Index:
    """An index of these passages in this order with an existing codec; `cuts` between shards."""
    write_codec(path, "codec", codec)
    ids = list(passages)
    entries = []
    for number, (first, stop) in enumerate(zip([0, *cuts], [*cuts, len(ids)], strict=True)):
        part = ids[first:stop]
        with ShardWriter(path, f"s{number}", codec) as writer:
            vectors = [passages[one] for one in part]
            doclens = np.array([len(one) for one in vectors], np.int32)
            writer.add(codec.compress(np.concatenate(vectors), doclens), doclens, part)
            entries.append(writer.finish())
    publish(path, "g000001-000000", "codec", codec, entries)
    return Index.open(path)


def answers(
    index: Index, seeds: Sequence[int] = (1, 2, 3), dim: int = DIM, **how: object
) -> list[object]:
    """Ids and scores of some searches."""
    found = [index.search(query(seed, dim=dim), **how) for seed in seeds]  # type: ignore[arg-type]
    return [(hits.ids, hits.scores.tolist()) for hits in found]
