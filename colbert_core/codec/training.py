"""Training a codec on a sample of token vectors: centroids, then levels and scales.

Shapes: S sample tokens, D dimensions, C centroids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from colbert_core.codec.assign import Assigner
from colbert_core.codec.codec import CODECS, Codec, check_settings, rotation_of
from colbert_core.codec.kmeans import default_centroids, spherical_kmeans
from colbert_core.codec.rows import Rows, rotated
from colbert_core.codec.sample import MemorySample, Sample
from colbert_core.errors import InvalidInput
from colbert_core.types import F32

_TABLE_TOKENS = 20_000
"""Sample tokens that the levels and scales are trained on."""


def train_codec(
    sample: F32 | Iterable[F32],
    *,
    name: str = "tartan",
    bits: int = 2,
    centroids: int | None = None,
    total_tokens: int,
    seed: int = 0,
    on_iteration: Callable[[int, int], None] | None = None,
) -> Codec:
    """Train a codec on a sample of token vectors.

    Args:
        sample: float32 [S, D], unit vectors; or such arrays one after the other, so that no more
            than one of them is in memory. `kmeans.SAMPLE_PER_CENTROID` vectors a centroid are
            enough, and all that are given are used.
        name: "tartan" or "colbertv2".
        bits: residual bits per dimension, 1 to 4.
        centroids: how many; by default the paper's 2^⌊log2(16·√total_tokens)⌋.
        total_tokens: tokens of the whole collection.
        seed: the same sample and seed give the same codec.
        on_iteration: called with (k-means iterations done, in all).

    Raises:
        InvalidInput: an argument is outside what the codec can do.
    """
    if centroids is not None and centroids < 1:
        raise InvalidInput(f"centroids is {centroids}; give 1 or more, or leave it out")
    parts = [sample] if isinstance(sample, np.ndarray) else sample
    rows, rotation_DD = _read_sample(parts, name, bits, seed)
    return train_codec_on(
        MemorySample(rows),
        rotation_DD,
        name=name,
        bits=bits,
        centroids=centroids,
        total_tokens=total_tokens,
        seed=seed,
        on_iteration=on_iteration,
    )


def train_codec_on(
    sample: Sample,
    rotation_DD: F32 | None,
    *,
    name: str,
    bits: int,
    centroids: int | None,
    total_tokens: int,
    seed: int,
    on_iteration: Callable[[int, int], None] | None = None,
) -> Codec:
    """`train_codec` on a sample wherever it lies, which `rotation_DD` has turned already.

    What this process holds follows from the number of centroids, and 20,000 vectors for the tables:
    not from the size of the sample.

    Raises:
        InvalidInput: the sample is empty.
    """
    if not len(sample):
        raise InvalidInput("there are no token vectors to train centroids on; give at least one")
    count = min(centroids or default_centroids(total_tokens), len(sample))
    exact_CD = CODECS[name].storable(
        spherical_kmeans(sample, count, seed=seed, on_iteration=on_iteration)
    )
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(sample), min(_TABLE_TOKENS, len(sample)), replace=False)
    rows = sample.rows(np.sort(chosen))
    nearest_SD = exact_CD[Assigner(exact_CD)(rows)]
    tables = CODECS[name].train_tables(rows.floats(), nearest_SD, bits=bits)
    return Codec(name, bits, rotation_DD, exact_CD, tables)


def sample_rows(vectors_SD: F32, rotation_DD: F32 | None) -> Rows:
    """Float32 [S, D] unit vectors as rows of a sample, in the codec's space."""
    return Rows.of(rotated(vectors_SD, rotation_DD))


def _read_sample(parts: Iterable[F32], name: str, bits: int, seed: int) -> tuple[Rows, F32 | None]:
    """The sample in the codec's space, and what turns vectors into it."""
    rotation_DD: F32 | None = None
    read: list[Rows] = []
    for part_SD in parts:
        if not read:
            check_settings(name=name, bits=bits, dim=part_SD.shape[1])
            rotation_DD = rotation_of(name, part_SD.shape[1], seed)
        read.append(sample_rows(part_SD, rotation_DD))
    if not any(map(len, read)):
        raise InvalidInput("there are no token vectors to train centroids on; give at least one")
    return Rows.gather(read), rotation_DD
