"""How large an index is, component by component, and the formula that predicts it.

With T tokens, N passages, D dimensions, b bits, C centroids, E postings, S shards, w(x) the 2 or 4
bytes that hold values up to x, and 128 bytes of header a file:

    codes            ⌈T · bits(C−1) / 8⌉ + 7
    residuals        T · D·b/8
    scales           T
    offsets          8 · (N + S)
    posting_offsets  8 · (C + 1) · S
    postings         E · w(N_shard − 1)
    centroids        C · (D + 4)   tartan,    C · 2D   colbertv2
    rotation         4 · D²        tartan
    tables           4 · (2·2^b − 1 + 512)
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from colbert_core.index.files import narrowest
from colbert_core.index.manifest import Manifest
from colbert_core.packed_ints import packed_bytes, width_of

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
        sizes[_COMPONENTS.get(stem, stem)] += entry.size_bytes
    return dict(sorted(sizes.items()))


def predicted_bytes(manifest: Manifest) -> dict[str, int]:
    """What the formula says for the components that it covers, headers included."""
    tokens, shards = manifest.tokens, len(manifest.shards)
    dim, bits, centroids = (int(manifest.codec[key]) for key in ("dim", "bits", "centroids"))
    sizes = {
        "codes": sum(
            packed_bytes(shard.tokens, width_of(centroids - 1)) + _HEADER
            for shard in manifest.shards
        ),
        "residuals": tokens * dim * bits // 8 + _HEADER * shards,
        "scales": tokens + _HEADER * shards,
        "offsets": 8 * (manifest.passages + shards) + _HEADER * shards,
        "posting_offsets": (8 * (centroids + 1) + _HEADER) * shards,
        "postings": sum(
            shard.postings * narrowest(max(shard.passages - 1, 0)).itemsize + _HEADER
            for shard in manifest.shards
        ),
    }
    if manifest.codec["name"] == "tartan":
        sizes["centroids"] = centroids * (dim + 4) + 2 * _HEADER
        sizes["rotation"] = 4 * dim * dim + _HEADER
    else:
        sizes["centroids"] = centroids * 2 * dim + _HEADER
    return dict(sorted(sizes.items()))


def describe(manifest: Manifest) -> dict[str, Any]:
    """What `tartan index inspect --json` prints.

    `bytes_per_token` counts everything but the stored texts; `ratio_to_fp16` is how many times
    smaller that is than the vectors in fp16.
    """
    sizes = component_bytes(manifest)
    total = sum(sizes.values())
    tokens = max(1, manifest.tokens)
    per_token = (total - sizes.get("texts", 0)) / tokens
    return {
        "generation": manifest.generation,
        "created": manifest.created,
        "passages": manifest.passages,
        "tokens": manifest.tokens,
        "truncated": manifest.truncated,
        "dim": manifest.codec["dim"],
        "centroids": manifest.codec["centroids"],
        "shards": len(manifest.shards),
        "bits": manifest.codec["bits"],
        "codec": manifest.codec["name"],
        "model": dict(manifest.model)["source"] if manifest.model else None,
        "bytes_total": total,
        "bytes_per_token": round(per_token, 3),
        "ratio_to_fp16": round(2 * int(manifest.codec["dim"]) / per_token, 3),
        "bytes": sizes,
    }
