"""Make the codec-parity fixtures with colbert-ai's own `ResidualCodec`.

    .venv-peers/colbert/bin/python benchmarks/peers/fixtures_codec.py OUT_FOLDER

Bucket cutoffs and weights come from the library's quantile rule, codes and packed residuals from
its `compress`, decoded vectors from its `decompress`, all on the CPU.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from colbert.indexing.codecs.residual import ResidualCodec
from colbert.indexing.collection_indexer import CollectionIndexer
from colbert.infra import ColBERTConfig

DIM = 64
CENTROIDS = 16
VECTORS = 240


def main(out: Path) -> None:
    """Write `bits1.npz`, `bits2.npz` and `bits4.npz` to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    centroids, vectors = random_input(seed=7)
    for bits in (1, 2, 4):
        arrays = run_codec(centroids, vectors, bits)
        np.savez_compressed(out / f"bits{bits}.npz", **arrays)


def random_input(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit centroids [CENTROIDS, DIM] and unit vectors [VECTORS, DIM] around them.

    Both are rounded to fp16, as an index stores centroids and as encoders hand over vectors; the
    last vectors are far from every centroid, and the very last equals one.
    """
    rng = np.random.default_rng(seed)
    centroids = normalised(rng.standard_normal((CENTROIDS, DIM)))
    home = rng.integers(CENTROIDS, size=VECTORS)
    vectors = normalised(centroids[home] + 0.06 * rng.standard_normal((VECTORS, DIM)))
    vectors[-20:] = normalised(rng.standard_normal((20, DIM)))
    vectors[-1] = centroids[3]
    return torch.from_numpy(centroids).half().float(), torch.from_numpy(vectors).half().float()


def normalised(rows: np.ndarray) -> np.ndarray:
    """`rows` with L2 norm 1 each."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def run_codec(centroids: torch.Tensor, vectors: torch.Tensor, bits: int) -> dict[str, np.ndarray]:
    """Everything that the library computes for one width, as arrays."""
    config = ColBERTConfig(dim=DIM, nbits=bits)
    cutoffs, weights, average = quantiles(config, centroids, vectors)
    codec = ResidualCodec(
        config=config,
        centroids=centroids,
        avg_residual=average,
        bucket_cutoffs=cutoffs,
        bucket_weights=weights,
    )
    packed = codec.compress(vectors)
    decoded = codec.decompress(packed)
    return {
        "centroids": centroids.numpy(),
        "vectors": vectors.numpy(),
        "bucket_cutoffs": cutoffs.numpy(),
        "bucket_weights": weights.numpy(),
        "codes": packed.codes.numpy(),
        "residuals": packed.residuals.numpy(),
        "decoded": decoded.numpy(),
        "bits": np.array(bits),
    }


def quantiles(
    config: ColBERTConfig, centroids: torch.Tensor, vectors: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cutoffs, weights and mean absolute residual, by the library's own method.

    The method needs of its object only what is set here; making a whole indexer would load a model.
    """
    indexer = object.__new__(CollectionIndexer)
    indexer.config = config
    indexer.use_gpu = False
    indexer.verbose = 0
    cutoffs, weights, average = indexer._compute_avg_residual(centroids, vectors)
    return cutoffs, weights, average


if __name__ == "__main__":
    main(Path(sys.argv[1]))
