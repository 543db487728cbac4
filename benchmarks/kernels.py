"""Speed of the native kernels, one thread, per SIMD path, beside numpy in the same run.

    python benchmarks/kernels.py [--passages 50000] [--centroids 32768] [--json]

The shard is synthetic: unit vectors around random centroids, passages about a topic, so that
postings and candidates look like those of text. What is measured is time, not quality.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from colbert_core import _native
from colbert_core.packed_ints import SLACK, packed_array
from colbert_core.posting_lists import encode_lists
from colbert_core.types import F32, AnyArray


def best_ms(call: Callable[[], Any], repeats: int = 25) -> float:
    """Milliseconds of the fastest call, after one to warm up: other work can only slow it down."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def make_shard(
    table: _native.CentroidTable, *, passages: int, tokens_each: int, dim: int, bits: int
) -> tuple[_native.Shard, AnyArray, AnyArray]:
    """A shard whose passages draw half of their tokens from a topic of 200 centroids."""
    rng = np.random.default_rng(2)
    centroids = table.centroids
    lengths_N = rng.integers(tokens_each // 2, tokens_each * 3 // 2 + 1, passages)
    tokens = int(lengths_N.sum())
    topic_T = np.repeat(rng.integers(0, centroids, passages), lengths_N)
    common_T = (centroids * rng.random(tokens) ** 1.5).astype(np.int64)
    own_T = (topic_T + rng.integers(0, 200, tokens)) % centroids
    codes_T = np.where(rng.random(tokens) < 0.5, own_T, common_T)
    pairs = np.unique(codes_T * passages + np.repeat(np.arange(passages), lengths_N))
    counts_C = np.bincount(pairs // passages, minlength=centroids)
    sizes_C, lists = encode_lists(counts_C, pairs % passages, passages)
    list_ends_C1 = np.concatenate([[0], np.cumsum(sizes_C)])
    levels = (np.linspace(-127, 127, 64).round() / 127).astype(np.float32)
    offsets_N1 = np.concatenate([[0], np.cumsum(lengths_N)])
    shard = _native.Shard(
        table,
        passages,
        packed_array(codes_T, centroids - 1),
        rng.integers(0, 256, (tokens, dim * bits // 8), dtype=np.uint8),
        rng.integers(0, 256, tokens, dtype=np.uint8),
        None,
        packed_array(offsets_N1, tokens),
        packed_array(list_ends_C1, len(lists)),
        np.append(lists, np.zeros(SLACK, np.uint8)),
        bits,
        levels,
        np.ones(256, np.float32),
        np.linspace(0.01, 0.05, 256).astype(np.float32),
        None,
        False,
    )
    return shard, codes_T, lengths_N


def measure(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(1)
    C, D, L = args.centroids, args.dim, args.query_tokens
    vectors_CD = rng.standard_normal((C, D)).astype(np.float32)
    vectors_CD /= np.linalg.norm(vectors_CD, axis=1, keepdims=True)
    scales_C = np.abs(vectors_CD).max(axis=1) / np.float32(127)
    codes_CD = np.rint(vectors_CD / scales_C[:, None]).astype(np.int8)
    table = _native.CentroidTable(codes_CD, scales_C)
    shard, _, _ = make_shard(
        table, passages=args.passages, tokens_each=args.tokens, dim=D, bits=args.bits
    )
    near = rng.integers(0, C) + np.arange(L)
    Q_LD = vectors_CD[near % C] + np.float32(0.05) * rng.standard_normal((L, D)).astype(np.float32)
    Q_LD = np.ascontiguousarray(Q_LD / np.linalg.norm(Q_LD, axis=1, keepdims=True), np.float32)

    results = {"numpy": numpy_floor(vectors_CD, Q_LD, args)}
    for isa in _native.isas():
        _native.use_isa(isa)
        results[isa] = measure_isa(table, shard, Q_LD, args)
    return results


def numpy_floor(vectors_CD: F32, Q_LD: F32, args: argparse.Namespace) -> dict[str, float]:
    """fp32 scores and selection by numpy; MaxSim of vectors that are already decoded."""

    def probe() -> AnyArray:
        return np.argpartition(-(vectors_CD @ Q_LD.T), args.nprobe, axis=0)[: args.nprobe]

    tokens_TD = np.tile(vectors_CD[:4096], (4, 1))
    starts = np.arange(0, len(tokens_TD), args.tokens)

    def maxsim() -> AnyArray:
        return np.maximum.reduceat(tokens_TD @ Q_LD.T, starts, axis=0).sum(axis=1)

    return {
        "probe_ms": best_ms(probe),
        "maxsim_ns_per_token": 1e6 * best_ms(maxsim) / len(tokens_TD),
    }


def measure_isa(
    table: _native.CentroidTable, shard: _native.Shard, Q_LD: F32, args: argparse.Namespace
) -> dict[str, float]:
    ids_LP, scores_LP = table.probe(Q_LD, args.nprobe)

    def search(candidates: int, k: int = 10) -> tuple[Any, ...]:
        return shard.search(Q_LD, ids_LP, scores_LP, k, candidates)

    # Scanning alone: two searches that differ only in how many candidates they scan.
    few, many = args.candidates, min(16 * args.candidates, shard.passages - 1)
    touched = search(many)[2]
    many = min(many, touched)
    slope_ms = best_ms(lambda: search(many)) - best_ms(lambda: search(few))
    pids = np.arange(min(100, shard.passages))
    tokens = shard.tokens / shard.passages
    return {
        "probe_ms": best_ms(lambda: table.probe(Q_LD, args.nprobe)),
        "scan_ns_per_token": 1e6 * slope_ms / max(1, many - few) / tokens,
        "precise_ns_per_token": 1e6
        * best_ms(lambda: shard.score(Q_LD, pids))
        / (len(pids) * tokens),
        "search_ms": best_ms(lambda: search(few)),
        "query_ms": best_ms(lambda: shard.search(Q_LD, *table.probe(Q_LD, args.nprobe), 10, few)),
        "touched": float(touched),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--centroids", type=int, default=32768)
    parser.add_argument("--passages", type=int, default=50_000)
    parser.add_argument("--tokens", type=int, default=70, help="mean tokens of a passage")
    parser.add_argument("--query-tokens", type=int, default=32)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--bits", type=int, default=2)
    parser.add_argument("--nprobe", type=int, default=8)
    parser.add_argument("--candidates", type=int, default=256)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    results = measure(args)
    if args.json:
        print(json.dumps({"settings": vars(args), "results": results}, indent=2))
        return
    print(
        f"{args.passages} passages of {args.tokens} tokens, {args.centroids} centroids, "
        f"{args.dim} dimensions, {args.bits} bits; query of {args.query_tokens} tokens, "
        f"nprobe {args.nprobe}, {args.candidates} candidates; one thread"
    )
    for name, figures in results.items():
        print(f"{name:>12}  " + "  ".join(f"{k} {v:.3f}" for k, v in figures.items()))


if __name__ == "__main__":
    main()
