"""One set of centroids, codes and packed residuals for all engines, made by our `colbertv2` codec.

Shapes: T tokens, D dimensions, C centroids, B packed bytes per token = D·bits/8.

All peers here compress as the ColBERTv2 paper does: the nearest centroid, and per dimension of the
residual one of 2^bits buckets, packed as colbert-ai packs them. So what one codec has made, all of
them can search.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from adapter import Vectors
from numpy.lib.format import open_memmap

if TYPE_CHECKING:
    from colbert_core.codec.codec import Codec

AT_ONCE = 1 << 16
SAMPLE = 20_000


@dataclass(frozen=True)
class SharedTokens:
    """What every index of one collection at one width is written from.

    Attributes:
        bits: per dimension of a residual.
        centroids_CD: float16 [C, D].
        cutoffs: float32 [2^bits - 1], the borders of the buckets.
        weights: float32 [2^bits], their values.
        avg_residual_D: float32 [D], mean absolute residual; colbert-ai keeps its mean.
        threshold: of a residual's length, above which fast-plaid and xtr-warp-rs call an added
            token an outlier: the third quartile. Searching does not read it.
        codes_T: integers [T].
        residuals_TB: uint8 [T, B], in Stanford's packing.
        doclens_N: int [N].
    """

    bits: int
    centroids_CD: np.ndarray
    cutoffs: np.ndarray
    weights: np.ndarray
    avg_residual_D: np.ndarray
    threshold: np.ndarray
    codes_T: np.ndarray
    residuals_TB: np.ndarray
    doclens_N: np.ndarray

    def pids(self) -> np.ndarray:
        """int32 [T], the passage of each token."""
        return np.repeat(np.arange(len(self.doclens_N), dtype=np.int32), self.doclens_N)

    def postings(self) -> tuple[np.ndarray, np.ndarray]:
        """The inverted file: int32 passages of each centroid, ascending, once each, end to end;
        and int64 [C] how many each has."""
        passages = len(self.doclens_N)
        pairs = np.unique(self.codes_T.astype(np.int64) * passages + self.pids())
        codes, pids = np.divmod(pairs, passages)
        return pids.astype(np.int32), np.bincount(codes, minlength=len(self.centroids_CD))

    def chunks(self, passages: int) -> Iterator[tuple[slice, slice]]:
        """Passages and tokens of each chunk of at most `passages` passages."""
        starts = np.concatenate([[0], np.cumsum(self.doclens_N)])
        for first in range(0, len(self.doclens_N), passages):
            last = min(first + passages, len(self.doclens_N))
            yield slice(first, last), slice(int(starts[first]), int(starts[last]))


def load(folder: Path, doclens_N: np.ndarray, bits: int) -> SharedTokens:
    """What `make` wrote to `folder`, at one of its widths."""

    def of(name: str) -> np.ndarray:
        return np.load(folder / f"{name}.npy", mmap_mode="r")

    return SharedTokens(
        bits=bits,
        centroids_CD=of("centroids"),
        cutoffs=of(f"cutoffs-{bits}"),
        weights=of(f"weights-{bits}"),
        avg_residual_D=of("avg_residual"),
        threshold=of("threshold"),
        codes_T=of("codes"),
        residuals_TB=of(f"residuals-{bits}"),
        doclens_N=doclens_N,
    )


def make(vectors: Vectors, folder: Path, widths: list[int], trained: Path | None) -> None:
    """Compress all tokens at every one of `widths`, to the same centroids and codes.

    Args:
        folder: empty; takes centroids.npy, codes.npy, avg_residual.npy, threshold.npy and, per
            width, cutoffs-B.npy, weights-B.npy and residuals-B.npy.
        trained: unit centroids [C, D] in a .npy file; by default ours are trained.
    """
    from colbert_core.codec.assign import Assigner
    from colbert_core.codec.codec import Codec
    from colbert_core.codec.colbertv2 import buckets_from, storable, tables_from
    from colbert_core.codec.rows import Rows

    centroids_CD = storable(np.load(trained) if trained else _train(vectors.tokens))
    sample_SD = _sample(vectors.tokens, SAMPLE)
    left_SD = sample_SD - centroids_CD[Assigner(centroids_CD)(Rows.of(sample_SD))]
    np.save(folder / "centroids.npy", centroids_CD.astype(np.float16))
    np.save(folder / "avg_residual.npy", np.abs(left_SD).mean(axis=0))
    outlier = np.quantile(np.linalg.norm(left_SD, axis=1), 0.75)
    np.save(folder / "threshold.npy", outlier.astype(np.float32))
    for bits in widths:
        borders, values = buckets_from(left_SD, bits)
        np.save(folder / f"cutoffs-{bits}.npy", borders)
        np.save(folder / f"weights-{bits}.npy", values)
        codec = Codec("colbertv2", bits, None, centroids_CD, tables_from(borders, values))
        _compress(codec, vectors.tokens, folder)


def _compress(codec: Codec, tokens_TD: np.ndarray, folder: Path) -> None:
    """Write codes.npy, which are the same at every width, and residuals-B.npy."""
    from colbert_core.codec.packing import pack_stanford, unpack_planes

    total = len(tokens_TD)
    codes_T = open_memmap(folder / "codes.npy", "w+", np.int32, (total,))
    residuals_TB = open_memmap(
        folder / f"residuals-{codec.bits}.npy", "w+", np.uint8, (total, codec.token_bytes)
    )
    for start in range(0, total, AT_ONCE):
        block = slice(start, start + AT_ONCE)
        vectors_TD = np.asarray(tokens_TD[block], np.float32)
        compressed = codec.compress(vectors_TD, np.array([len(vectors_TD)]))
        codes_T[block] = compressed.codes_T
        indices_TD = unpack_planes(compressed.residuals_TB, codec.bits, codec.dim)
        residuals_TB[block] = pack_stanford(indices_TD, codec.bits)
    print(f"compressed {total:,} tokens to {codec.bits} bits", flush=True)


def _train(tokens_TD: np.ndarray) -> np.ndarray:
    from colbert_core.codec import train_codec
    from colbert_core.codec.kmeans import SAMPLE_PER_CENTROID, default_centroids

    total = len(tokens_TD)
    sample_SD = _sample(tokens_TD, default_centroids(total) * SAMPLE_PER_CENTROID)
    return train_codec(sample_SD, name="colbertv2", total_tokens=total).centroids_CD


def _sample(tokens_TD: np.ndarray, count: int) -> np.ndarray:
    """float32 [at most count, D], the same for the same tokens."""
    rng = np.random.default_rng(0)
    count = min(count, len(tokens_TD))
    chosen = np.sort(rng.choice(len(tokens_TD), count, replace=False))
    return np.asarray(tokens_TD[chosen], np.float32)
