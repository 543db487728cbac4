"""How large an index is, component by component, and the formula that predicts it.

With T tokens, N passages and E postings in a shard, D dimensions, b bits, C centroids, p(n, x) =
⌈n · bits of x / 8⌉ + 7 the bytes of n packed values up to x, P the bytes of the posting lists, and
128 bytes of header a file:

    codes            p(T, C−1)
    residuals        T · D·b/8
    scales           T
    contexts         N · (D·b/8 + 4)   where shards have them
    offsets          p(N+1, T)
    posting_offsets  p(C+1, P)
    postings         P + 7        with P ≤ E · (2 + log2(N·C / E)) / 8 + 7·C
    centroids        C · (D + 4)   tartan,    C · 2D   colbertv2
    rotation         4 · D²        tartan
    tables           4 · (2·2^b − 1 + 512)
    tombstones       4 · passages that were deleted, where some were

A shard's counts are of what is stored, deleted passages among it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict
from typing import Any

from colbert_core.index.manifest import Manifest, ShardEntry
from colbert_core.index.presets import CALIBRATED_ON
from colbert_core.packed_ints import SLACK, packed_bytes, width_of
from colbert_core.reference.contexts import context_bytes

_HEADER = 128
_COMPONENTS = {
    "centroid_scales": "centroids",
    "levels": "tables",
    "cutoffs": "tables",
    "alpha": "tables",
    "beta": "tables",
    "codec": "tables",
}


def component_bytes(manifest: Manifest) -> dict[str, int]:
    """Bytes on disk per component."""
    sizes: Counter[str] = Counter()
    for name, entry in manifest.files.items():
        stem = name.rsplit("/", 1)[1].split(".")[0]
        component = "tombstones" if name.startswith("tombstones/") else stem
        sizes[_COMPONENTS.get(stem, component)] += entry.size_bytes
    return dict(sorted(sizes.items()))


def predicted_bytes(manifest: Manifest) -> dict[str, int]:
    """What the formula says for the components that it covers, headers included.

    It is exact, but for `postings`, where it is a limit: lists of equal length would be largest.
    """
    dim, bits, centroids = (int(manifest.codec[key]) for key in ("dim", "bits", "centroids"))
    sizes: Counter[str] = Counter()
    for shard in manifest.shards:
        lists = manifest.files[f"shards/{shard.id}/postings.npy"].size_bytes - SLACK - _HEADER
        sizes["codes"] += _packed(shard.tokens, centroids - 1)
        sizes["residuals"] += shard.tokens * dim * bits // 8 + _HEADER
        sizes["scales"] += shard.tokens + _HEADER
        if shard.contexts:
            sizes["contexts"] += shard.passages * context_bytes(dim, bits) + _HEADER
        sizes["offsets"] += _packed(shard.passages + 1, shard.tokens)
        sizes["posting_offsets"] += _packed(centroids + 1, lists)
        sizes["postings"] += _most_bytes(shard, centroids) + SLACK + _HEADER
        if shard.tombstones is not None:
            sizes["tombstones"] += 4 * shard.tombstones.passages + _HEADER
    if manifest.codec["name"] == "tartan":
        sizes["centroids"] = centroids * (dim + 4) + 2 * _HEADER
        sizes["rotation"] = 4 * dim * dim + _HEADER
    else:
        sizes["centroids"] = centroids * 2 * dim + _HEADER
    return dict(sorted(sizes.items()))


def _packed(count: int, largest: int) -> int:
    return packed_bytes(count, width_of(largest)) + _HEADER


def _most_bytes(shard: ShardEntry, centroids: int) -> int:
    """The largest that posting lists can be."""
    if not shard.postings:
        return 0
    lists = min(centroids, shard.postings)
    bits = shard.postings * (2 + math.log2(shard.passages * lists / shard.postings))
    return math.floor(bits / 8) + 7 * lists


def describe(manifest: Manifest) -> dict[str, Any]:
    """What `tartan index inspect --json` prints.

    `passages` and `tokens` are without deleted ones; `tokens` counts stored vectors: what is left
    after pooling. `bytes_per_token` counts everything but the stored texts; `ratio_to_fp16` is how
    many times smaller that is than these in fp16.
    """
    sizes = component_bytes(manifest)
    total = sum(sizes.values())
    tokens = max(1, manifest.tokens)
    per_token = (total - sizes.get("texts", 0)) / tokens
    language = (manifest.model or {}).get("language")
    return {
        "generation": manifest.generation,
        "created": manifest.created,
        "passages": manifest.passages,
        "documents": manifest.documents,
        "tokens": manifest.tokens,
        "deleted": manifest.deleted,
        "truncated": manifest.truncated,
        "pool_factor": manifest.pool_factor,
        "dim": manifest.codec["dim"],
        "centroids": manifest.codec["centroids"],
        "shards": len(manifest.shards),
        "delta_shards": sum(shard.delta for shard in manifest.shards),
        "bits": manifest.codec["bits"],
        "codec": manifest.codec["name"],
        "model": manifest.model["source"] if manifest.model else None,
        **({"language": language} if language else {}),
        "bytes_total": total,
        "bytes_per_token": round(per_token, 3),
        "ratio_to_fp16": round(2 * int(manifest.codec["dim"]) / per_token, 3),
        "bytes": sizes,
        "fields": manifest.metadata_fields,
        **({CALIBRATED_ON: real} if (real := manifest.extras.get(CALIBRATED_ON)) else {}),
        "presets": [asdict(preset) for preset in manifest.presets],
    }
