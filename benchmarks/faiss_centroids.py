"""Our centroid table and k-means beside faiss's, on real token vectors.

    .venv/bin/python benchmarks/faiss_centroids.py --vectors build/bench/scifact-128

Probing: the best `nprobe` centroids for each token of one query, one thread, for tables of several
sizes (real token vectors stand in for trained centroids: they lie as centroids lie). Times are
processor times, which other work on the machine hardly changes. Recall is with the fp32 inner
products. docs/decisions/faiss.md says what was decided from it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks" / "peers"))

from adapter import Vectors  # noqa: E402

from colbert_core import kernels  # noqa: E402
from colbert_core.codec.assign import Assigner  # noqa: E402
from colbert_core.codec.kmeans import ITERATIONS, spherical_kmeans  # noqa: E402
from colbert_core.codec.rows import Rows  # noqa: E402
from colbert_core.codec.sample import MemorySample  # noqa: E402

NPROBE = 16
Probe = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    """Print one table for probing and one for k-means."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--vectors", type=Path, default=ROOT / "build" / "bench" / "scifact-128")
    parser.add_argument("--sizes", nargs="+", type=int, default=[16_384, 65_536, 262_144])
    parser.add_argument("--queries", type=int, default=50)
    args = parser.parse_args()
    faiss.omp_set_num_threads(1)
    vectors = Vectors.load(args.vectors)
    queries = vectors.queries[: args.queries]
    print(f"kernels: {kernels.IMPLEMENTATION}; {len(queries)} queries, nprobe {NPROBE}\n")
    print(f"| centroids | probed by | processor ms a query | recall@{NPROBE} | build s | MiB |")
    print("|--:|---|--:|--:|--:|--:|")
    for size in args.sizes:
        probing(sample(vectors, size), queries)
    print("\n| k-means by | iterations | seconds | mean cosine |")
    print("|---|--:|--:|--:|")
    clustering(sample(vectors, 98_304), 2_048)


def sample(vectors: Vectors, count: int) -> np.ndarray:
    """float32 [count, D], unit vectors drawn without replacement, the same for the same count."""
    rng = np.random.default_rng(1)
    rows = np.sort(rng.choice(len(vectors.tokens), count, replace=False))
    drawn = vectors.tokens[rows].astype(np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def probing(centroids_CD: np.ndarray, queries: list[np.ndarray]) -> None:
    """One row for each way to find the best centroids."""
    exact = faiss.IndexFlatIP(centroids_CD.shape[1])
    exact.add(centroids_CD)
    truth = [exact.search(query, NPROBE)[1] for query in queries]
    for name, make in WAYS.items():
        start = time.process_time()
        probe, size = make(centroids_CD)
        built = time.process_time() - start
        probe(queries[0])
        latencies, hits = [], []
        for query, best in zip(queries, truth, strict=True):
            start = time.process_time()
            found = probe(query)
            latencies.append(1e3 * (time.process_time() - start))
            hits += [len(set(a) & set(b)) / NPROBE for a, b in zip(found, best, strict=True)]
        print(
            f"| {len(centroids_CD):,} | {name} | {np.median(latencies):.2f} | {np.mean(hits):.3f} "
            f"| {built:.1f} | {size / 2**20:.1f} |",
            flush=True,
        )


def ours(centroids_CD: np.ndarray) -> tuple[Probe, int]:
    """The int8 table that a search uses."""
    scales_C = np.abs(centroids_CD).max(axis=1) / 127
    codes_CD = np.rint(centroids_CD / scales_C[:, None]).astype(np.int8)
    table = kernels.CentroidTable(codes_CD, scales_C.astype(np.float32))
    return lambda query: table.probe(query, NPROBE)[0], codes_CD.nbytes + 4 * len(scales_C)


def flat(centroids_CD: np.ndarray) -> tuple[Probe, int]:
    """faiss, every inner product in fp32."""
    index = faiss.IndexFlatIP(centroids_CD.shape[1])
    index.add(centroids_CD)
    return lambda query: index.search(query, NPROBE)[1], centroids_CD.nbytes


def scalar(centroids_CD: np.ndarray) -> tuple[Probe, int]:
    """faiss, 8 bits a dimension."""
    inner = faiss.METRIC_INNER_PRODUCT
    dim = centroids_CD.shape[1]
    index = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit, inner)
    index.train(centroids_CD)
    index.add(centroids_CD)
    return lambda query: index.search(query, NPROBE)[1], centroids_CD.size


def graph(ef_search: int) -> Callable[[np.ndarray], tuple[Probe, int]]:
    """faiss, an HNSW graph with 32 neighbours a node."""

    def make(centroids_CD: np.ndarray) -> tuple[Probe, int]:
        index = faiss.IndexHNSWFlat(centroids_CD.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
        index.add(centroids_CD)
        index.hnsw.efSearch = ef_search
        links = len(centroids_CD) * 64 * 4
        return lambda query: index.search(query, NPROBE)[1], centroids_CD.nbytes + links

    return make


def inverted(cells_probed: int) -> Callable[[np.ndarray], tuple[Probe, int]]:
    """faiss, an inverted file with √C cells."""

    def make(centroids_CD: np.ndarray) -> tuple[Probe, int]:
        dim = centroids_CD.shape[1]
        cells = int(len(centroids_CD) ** 0.5)
        coarse = faiss.IndexFlatIP(dim)
        index = faiss.IndexIVFFlat(coarse, dim, cells, faiss.METRIC_INNER_PRODUCT)
        index.train(centroids_CD)
        index.add(centroids_CD)
        index.nprobe = cells_probed
        # The coarse quantiser must outlive this function.
        return (
            lambda query, _keep=coarse: index.search(query, NPROBE)[1],
            centroids_CD.nbytes + 8 * len(centroids_CD),
        )

    return make


WAYS: dict[str, Callable[[np.ndarray], tuple[Probe, int]]] = {
    "ours (int8, exhaustive)": ours,
    "faiss Flat (fp32)": flat,
    "faiss SQ8": scalar,
    "faiss IVFFlat, 8 cells": inverted(8),
    "faiss IVFFlat, 32 cells": inverted(32),
    "faiss HNSW, ef 64": graph(64),
    "faiss HNSW, ef 256": graph(256),
}


def clustering(sample_SD: np.ndarray, count: int) -> None:
    """Time and mean cosine with the nearest centroid, after the same number of iterations."""
    start = time.process_time()
    mine = spherical_kmeans(MemorySample(Rows.of(sample_SD)), count, seed=0)
    seconds = time.process_time() - start
    print(f"| ours | {ITERATIONS} | {seconds:.1f} | {cosine(sample_SD, mine):.4f} |")
    start = time.process_time()
    theirs = faiss.Kmeans(
        sample_SD.shape[1], count, niter=ITERATIONS, spherical=True, seed=1, verbose=False
    )
    theirs.train(sample_SD)
    seconds = time.process_time() - start
    print(f"| faiss | {ITERATIONS} | {seconds:.1f} | {cosine(sample_SD, theirs.centroids):.4f} |")


def cosine(sample_SD: np.ndarray, centroids_CD: np.ndarray) -> float:
    """Mean inner product of each vector with its centroid."""
    centroids_CD = np.ascontiguousarray(centroids_CD, dtype=np.float32)
    codes_S = Assigner(centroids_CD)(Rows.of(sample_SD))
    return float((sample_SD * centroids_CD[codes_S]).sum(axis=1).mean())


if __name__ == "__main__":
    main()
