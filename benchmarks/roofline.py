"""How far each stage of a query is from what the processor could do at best.

    .venv/bin/python benchmarks/roofline.py --vectors build/bench/acl-anthology-128

The floor of a stage is the larger of its int8 operations over the measured peak and the bytes it
must read over the measured bandwidth of a working set of that size; `report/floors.py` says what is
counted, `peak.cpp` measures the two. Times are of one thread, each the least of several repeats,
median over queries; the stages that one kernel does are told apart by asking it for the postings'
ranking alone, and by comparing and scoring the same passages in calls of their own.
"""

from __future__ import annotations

import os

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from adapter import Vectors
from machine import busy, machine
from report.floors import Work, floors, roofline_markdown
from report.write import SCHEMA, write

from colbert_core import Index, kernels
from colbert_core.index.inspect import component_bytes

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
REPEATS = 7


def main() -> None:
    """Measure the peaks, then the stages; print and write both."""
    args = arguments()
    vectors, index = Vectors.load(args.vectors), Index.open(args.vectors / args.index)
    load_before, peaks = busy(), measure_peaks()
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(vectors.queries), min(args.queries, len(vectors.queries)), False)
    stages = Stages(index, np.diff(vectors.offsets), args)
    works = [stages.of(np.ascontiguousarray(vectors.queries[i], np.float32)) for i in chosen]
    about = {
        "theme": "roofline",
        "collection": args.vectors.name,
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "load_before": load_before,
        "load_after": busy(),
        "kernels": kernels.IMPLEMENTATION,
        "passages": len(index),
        "tokens": index.manifest.tokens,
        "codec": dict(index.manifest.codec),
        "queries": len(works),
        "k": args.k,
        "nprobe": args.nprobe,
        "candidates": args.candidates,
        "scored": args.scored,
    }
    document = {"schema": SCHEMA, "about": about, "peaks": peaks, "rows": floors(works, peaks)}
    text = roofline_markdown(document)
    print(text)
    write(args.out, f"roofline-{about['collection']}-{about['date']}", document, text)


def measure_peaks() -> dict[str, Any]:
    """Build `peak.cpp` for this processor and run it."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "peak"
        compiler = os.environ.get("CXX", "g++")
        source = str(HERE / "peak.cpp")
        subprocess.run([compiler, "-O3", "-march=native", source, "-o", program], check=True)
        printed = subprocess.run([program], check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(printed))


class Stages:
    """Times the stages of a query and counts what each has to do."""

    def __init__(self, index: Index, doclens_N: np.ndarray, args: argparse.Namespace) -> None:
        self.index, self.args = index, args
        (self.shard,) = (shard.kernel for shard in index.generation.shards)
        self.codec = index.generation.codec
        self.doclens_N = doclens_N
        manifest = index.manifest
        sizes, codec = component_bytes(manifest), manifest.codec
        self.centroids, self.dim = int(codec["centroids"]), int(codec["dim"])
        # A token: its residual, its scale, and its code at as many bits as the centroids need.
        self.code_bytes = max(1, (self.centroids - 1).bit_length()) / 8
        self.token_bytes = self.dim * int(codec["bits"]) / 8 + 1 + self.code_bytes
        self.postings_bytes = sizes["postings"]
        self.posting_bytes = sizes["postings"] / sum(one.postings for one in manifest.shards)

    def of(self, Q_LD: np.ndarray) -> list[Work]:
        """What each stage of one query takes, and the least that it has to do."""
        args, shard, table = self.args, self.shard, self.codec.centroid_table
        rotated = self.codec.rotate(Q_LD)
        probes = table.probe(rotated, args.nprobe, keep_rows=True)  # which interaction then finds
        coarse = (rotated, *probes, args.candidates, args.candidates, None, 0.0, np.inf, 0)
        candidates = np.sort(shard.search(*coarse)[0])
        scores = shard.interaction(rotated, candidates)
        scored = np.sort(candidates[np.argsort(-scores, kind="stable")[: args.scored]])
        rotate_ms = least_ms(lambda: self.codec.rotate(Q_LD))
        probe_ms = least_ms(lambda: table.probe(rotated, args.nprobe, keep_rows=True))
        postings_ms = least_ms(lambda: shard.search(*coarse))
        interaction_ms = least_ms(lambda: shard.interaction(rotated, candidates))
        precise_ms = least_ms(lambda: shard.score(rotated, scored))
        knobs = {"nprobe": args.nprobe, "candidates": args.candidates, "scored": args.scored}
        total_ms = least_ms(lambda: self.index.search(Q_LD, k=args.k, **knobs).ids)
        known_ms = rotate_ms + probe_ms + postings_ms + interaction_ms + precise_ms
        lanes = -(-len(Q_LD) // 16) * 16
        product = 2 * self.dim * lanes  # operations of a stored vector with the whole query
        row_bytes = 2 * lanes
        postings = self._postings(rotated, probes)
        compared, read = (int(self.doclens_N[pids].sum()) for pids in (candidates, scored))
        table_bytes, shard_bytes = self.centroids * self.dim, shard.tokens * self.token_bytes
        return [
            Work("rotate", rotate_ms, 0, 4 * self.dim**2, 4 * self.dim**2),
            Work("centroids", probe_ms, self.centroids * product, table_bytes, table_bytes),
            Work(
                "postings, selection",
                postings_ms,
                0,
                postings * (self.posting_bytes + 8),
                self.postings_bytes,
            ),
            Work(
                "centroid interaction",
                interaction_ms,
                0,
                compared * (self.code_bytes + row_bytes),
                self.centroids * row_bytes,
            ),
            Work("precise", precise_ms, read * product, read * self.token_bytes, shard_bytes),
            Work("ids, Python", max(0.0, total_ms - known_ms), 0, 0, 1),
        ]

    def _postings(self, rotated: np.ndarray, probes: tuple[Any, Any]) -> int:
        """How many postings the probes walk.

        Of a probe alone, the passages that it touches are its list.
        """
        return sum(
            self.shard.search(rotated[:1], ids[None, :1], scores[None, :1], 1, 1)[2]
            for ids_P, scores_P in zip(*probes, strict=True)
            for ids, scores in zip(ids_P[:, None], scores_P[:, None], strict=True)
        )


def least_ms(call: Callable[[], Any]) -> float:
    """Milliseconds of the fastest of several calls: other work can only slow one down."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    cache = ROOT / "build" / "bench" / "cranfield-128"
    parser.add_argument("--vectors", type=Path, default=cache, help="where `bench.py` left them")
    parser.add_argument("--index", default="tartan-tartan-2-bit", help="beside the vectors")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--nprobe", type=int, default=32)
    parser.add_argument("--candidates", type=int, default=512)
    parser.add_argument("--scored", type=int, default=78)
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
