"""Small synthetic shards, built as the index would build them, for native and reference alike."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from colbert_core import _native, reference
from colbert_core.packed_ints import SLACK, pack_ints, width_of
from colbert_core.types import AnyArray


@dataclass(frozen=True)
class World:
    """The arrays of a shard; `native()` and `reference()` make the two implementations of it."""

    centroids_CD: AnyArray
    centroid_scales_C: AnyArray
    codes: AnyArray
    residuals_TB: AnyArray
    scales_T: AnyArray
    offsets_N1: AnyArray
    posting_offsets_C1: AnyArray
    postings: AnyArray
    bits: int
    levels: AnyArray
    alpha: AnyArray
    beta: AnyArray
    centroids_f32: AnyArray | None = None
    normalize: bool = False
    made: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def passages(self) -> int:
        return len(self.offsets_N1) - 1

    @property
    def dim(self) -> int:
        return self.centroids_CD.shape[1]

    def _make(self, module: Any) -> tuple[Any, Any]:
        table = module.CentroidTable(self.centroids_CD, self.centroid_scales_C)
        shard = module.Shard(
            table,
            self.codes,
            self.residuals_TB,
            self.scales_T,
            self.offsets_N1,
            self.posting_offsets_C1,
            self.postings,
            self.bits,
            self.levels,
            self.alpha,
            self.beta,
            self.centroids_f32,
            self.normalize,
        )
        return table, shard

    def native(self) -> tuple[Any, Any]:
        if "native" not in self.made:
            self.made["native"] = self._make(_native)
        return self.made["native"]

    def reference(self) -> tuple[Any, Any]:
        if "reference" not in self.made:
            self.made["reference"] = self._make(reference)
        return self.made["reference"]

    def but(self, **changes: Any) -> World:
        return replace(self, made={}, **changes)


def make_world(
    *,
    dim: int = 128,
    bits: int = 2,
    centroids: int = 64,
    passages: int = 40,
    longest: int = 20,
    seed: int = 0,
    narrow: bool = True,
    normalize: bool = False,
    exact_centroids: bool = False,
    clustered: float = 1.0,
) -> World:
    """A shard of random passages of 1 to `longest` tokens.

    `clustered` above 1 makes low centroids frequent, as real ones are. `narrow`: uint16 codes and
    postings, else uint32.
    """
    rng = np.random.default_rng(seed)
    ordinal = np.uint16 if narrow else np.uint32
    lengths_N = rng.integers(1, longest + 1, passages)
    tokens = int(lengths_N.sum())
    codes_T = (centroids * rng.random(tokens) ** clustered).astype(ordinal)
    levels = np.sort(rng.standard_normal(1 << bits)).astype(np.float32) * np.float32(0.05)
    alpha = (1 + 0.1 * rng.standard_normal(256)).astype(np.float32)
    centroids_CD = rng.integers(-127, 128, (centroids, dim)).astype(np.int8)
    centroid_scales_C = (rng.random(centroids) * 0.002 + 1e-4).astype(np.float32)
    exact = centroids_CD * centroid_scales_C[:, None] + 1e-4 * rng.standard_normal((centroids, dim))
    posting_offsets_C1, postings = invert(codes_T, lengths_N, centroids, ordinal)
    return World(
        centroids_CD=centroids_CD,
        centroid_scales_C=centroid_scales_C,
        codes=pack(codes_T, width_of(centroids - 1)),
        residuals_TB=rng.integers(0, 256, (tokens, dim * bits // 8)).astype(np.uint8),
        scales_T=rng.integers(0, 256, tokens).astype(np.uint8),
        offsets_N1=np.concatenate([[0], np.cumsum(lengths_N)]).astype(np.uint64),
        posting_offsets_C1=posting_offsets_C1,
        postings=postings,
        bits=bits,
        levels=levels,
        alpha=alpha,
        beta=rng.random(256).astype(np.float32) if not normalize else alpha,
        centroids_f32=exact.astype(np.float32) if exact_centroids else None,
        normalize=normalize,
    )


def invert(
    codes_T: AnyArray, lengths_N: AnyArray, centroids: int, ordinal: Any
) -> tuple[AnyArray, AnyArray]:
    """Passages per centroid, ascending, each once."""
    passages = np.repeat(np.arange(len(lengths_N)), lengths_N)
    pairs = np.unique(np.stack([codes_T.astype(np.int64), passages], axis=1), axis=0)
    offsets = np.searchsorted(pairs[:, 0], np.arange(centroids + 1)).astype(np.uint64)
    return offsets, pairs[:, 1].astype(ordinal)


def pack(values: AnyArray, width: int) -> AnyArray:
    """Packed integers with their slack."""
    return np.concatenate([pack_ints(values, width), np.zeros(SLACK, np.uint8)])


def make_query(tokens: int, dim: int, seed: int = 1) -> AnyArray:
    """Unit vectors, float32 [L, D]."""
    Q_LD = np.random.default_rng(seed).standard_normal((tokens, dim))
    return (Q_LD / np.linalg.norm(Q_LD, axis=1, keepdims=True)).astype(np.float32)
