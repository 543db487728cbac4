"""Small synthetic shards, built as the index would build them, for native and reference alike."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from colbert_core import _native, reference
from colbert_core.packed_ints import SLACK, PackedInts, packed_array
from colbert_core.posting_lists import decode_list, encode_lists
from colbert_core.types import AnyArray


@dataclass(frozen=True)
class World:
    """The arrays of a shard; `native()` and `reference()` make the two implementations of it."""

    centroids_CD: AnyArray
    centroid_scales_C: AnyArray
    passages: int
    codes: AnyArray
    residuals_TB: AnyArray
    scales_T: AnyArray
    contexts_NX: AnyArray | None
    offsets: AnyArray
    posting_offsets: AnyArray
    postings: AnyArray
    bits: int
    levels: AnyArray
    alpha: AnyArray
    beta: AnyArray
    centroids_f32: AnyArray | None = None
    normalize: bool = False
    made: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def dim(self) -> int:
        return self.centroids_CD.shape[1]

    def _make(self, module: Any) -> tuple[Any, Any]:
        table = module.CentroidTable(self.centroids_CD, self.centroid_scales_C)
        shard = module.Shard(
            table,
            self.passages,
            self.codes,
            self.residuals_TB,
            self.scales_T,
            self.contexts_NX,
            self.offsets,
            self.posting_offsets,
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

    def lists(self) -> list[AnyArray]:
        """Passages of every centroid."""
        size = len(self.postings) - SLACK
        count = len(self.centroids_CD) + 1
        starts = PackedInts("posting_offsets", self.posting_offsets, count, size).read(0, count)
        return [
            decode_list(self.postings[:-SLACK], int(start), int(end), self.passages)
            for start, end in pairwise(starts)
        ]

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
    normalize: bool = False,
    exact_centroids: bool = False,
    clustered: float = 1.0,
    planes: bool = False,
    on_grid: bool = True,
    contexts: bool = True,
) -> World:
    """A shard of random passages of 1 to `longest` tokens.

    `planes` are residuals as `colbertv2` packs them, else they are bits along the trellis, whose
    levels lie on an int8 grid or not.
    `clustered` above 1 makes low centroids frequent, as real ones are.
    `contexts` are there where the codec can have them.
    """
    rng = np.random.default_rng(seed)
    lengths_N = rng.integers(1, longest + 1, passages)
    tokens = int(lengths_N.sum())
    codes_T = (centroids * rng.random(tokens) ** clustered).astype(np.int64)
    if planes or not on_grid:
        levels = rng.standard_normal(1 << bits if planes else 64).astype(np.float32)
        levels *= np.float32(0.05)
    else:
        levels = level_grid(rng.integers(-127, 128, 64), 4e-4)
    alpha = (1 + 0.1 * rng.standard_normal(256)).astype(np.float32)
    centroids_CD = rng.integers(-127, 128, (centroids, dim)).astype(np.int8)
    centroid_scales_C = (rng.random(centroids) * 0.002 + 1e-4).astype(np.float32)
    exact = centroids_CD * centroid_scales_C[:, None] + 1e-4 * rng.standard_normal((centroids, dim))
    offsets_N1 = np.concatenate([[0], np.cumsum(lengths_N)])
    posting_offsets, postings = lists_of(invert(codes_T, lengths_N, centroids), passages)
    contexts_NX = None
    if contexts and not planes and not normalize:
        packed_NB = rng.integers(0, 256, (passages, dim * bits // 8)).astype(np.uint8)
        scales_N1 = rng.standard_normal((passages, 1)).astype("<f4")
        contexts_NX = np.concatenate([packed_NB, scales_N1.view(np.uint8)], axis=1)
    return World(
        centroids_CD=centroids_CD,
        centroid_scales_C=centroid_scales_C,
        passages=passages,
        codes=packed_array(codes_T, centroids - 1),
        residuals_TB=rng.integers(0, 256, (tokens, dim * bits // 8)).astype(np.uint8),
        scales_T=rng.integers(0, 256, tokens).astype(np.uint8),
        contexts_NX=contexts_NX,
        offsets=packed_array(offsets_N1, tokens),
        posting_offsets=posting_offsets,
        postings=postings,
        bits=bits,
        levels=levels,
        alpha=alpha,
        beta=rng.random(256).astype(np.float32) if not normalize else alpha,
        centroids_f32=exact.astype(np.float32) if exact_centroids else None,
        normalize=normalize,
    )


def level_grid(values: AnyArray, step: float) -> AnyArray:
    """Levels that are int8 values of one step, the largest of them ±127."""
    values = values.copy()
    values[0] = 127
    return (values * np.float32(step)).astype(np.float32)


def invert(codes_T: AnyArray, lengths_N: AnyArray, centroids: int) -> list[AnyArray]:
    """Passages per centroid, ascending, each once."""
    owner = np.repeat(np.arange(len(lengths_N)), lengths_N)
    return [np.unique(owner[codes_T == centroid]) for centroid in range(centroids)]


def lists_of(lists: list[AnyArray], passages: int) -> tuple[AnyArray, AnyArray]:
    """Encoded posting lists: packed offsets, and bytes with their slack."""
    counts_C = np.array([len(one) for one in lists])
    sizes_C, data = encode_lists(counts_C, np.concatenate(lists), passages)
    ends_C1 = np.concatenate([[0], np.cumsum(sizes_C)])
    return packed_array(ends_C1, len(data)), np.append(data, np.zeros(SLACK, np.uint8))


def make_query(tokens: int, dim: int, seed: int = 1) -> AnyArray:
    """Unit vectors, float32 [L, D]."""
    Q_LD = np.random.default_rng(seed).standard_normal((tokens, dim))
    return (Q_LD / np.linalg.norm(Q_LD, axis=1, keepdims=True)).astype(np.float32)
