"""What a cluster adds to a search: the same queries in one process and through gateway and shards.

    .venv/bin/python benchmarks/overhead.py INDEX --queries ../shared/data/scifact/queries.jsonl

One query after the other, as vectors, so that nothing is encoded and nothing waits: what is left is
gRPC twice, conversions, the fan-out, the merge. The two take turns, query by query, and with them
the floor: a gateway and shards that pass as many bytes on and do nothing else. Beside it, what TLS
costs one call of a shard server, in clear text and with mTLS by turns.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from load import index_figures, query_vectors
from loadgen.bare import bare_cluster
from loadgen.served import serving
from machine import busy, machine
from report.write import SCHEMA, conditions, write

from cluster.client import Client, RetryPolicy
from cluster.security.inner_certificates import InnerCertificates, inner_certificates
from cluster.wire.inner_tls import InnerTls
from cluster.wire.shard_channel import ShardChannel
from colbert_core.api import Index
from colbert_core.index import open_generation
from colbert_core.types import F32
from workers.held_shard import HeldShard
from workers.shard_server import ShardServer

ROOT = Path(__file__).resolve().parents[1]
LIMIT_MS = 3.0
CALLS = 2000
ANSWER_BYTES = 1000  # of a shard: ten hits without their texts

T = TypeVar("T")


def main() -> None:
    """Measure, write the results, and fail beyond the limit."""
    args = arguments()
    about: dict[str, Any] = {
        "collection": args.index.stem,
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "load_before": busy(),
        "index": index_figures(args.index),
        "k": args.k,
        "replicas": args.replicas,
    }
    queries = query_vectors(args.index, args.queries)[: args.count]
    rows = searches(args.index, queries, args.k, args.replicas)
    calls = shard_calls(args.index)
    about |= {"queries": len(queries), "load_after": busy()}
    document = {"schema": SCHEMA, "about": about, "rows": rows, "shard_calls": calls}
    stem = f"overhead-{about['collection']}-{about['date']}{args.tag}"
    write(args.out, stem, document, markdown(document))
    sys.exit(0 if max(row["overhead_p50_ms"] for row in rows) <= LIMIT_MS else 1)


def searches(index: Path, queries: list[F32], k: int, replicas: int) -> list[dict[str, Any]]:
    """Milliseconds in process and through the cluster, without and with texts."""
    opened = Index.open(index)
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(index, ["--replicas", str(replicas)], Path(folder) / "log") as served,
        bare_cluster(len(opened.manifest.shards), ANSWER_BYTES) as bare,
        Client(served.address, retry=RetryPolicy(attempts=1), timeout_s=30.0) as client,
    ):
        return [compared(opened, client, bare, queries, k, texts=texts) for texts in (False, True)]


def compared(
    opened: Index,
    client: Client,
    bare: Callable[[bytes], bytes],
    queries: list[F32],
    k: int,
    *,
    texts: bool,
) -> dict[str, Any]:
    """By turns; every answer must be the same."""

    def here(query: F32) -> Any:
        hits = opened.search(query, k=k)
        return [hit.text for hit in hits] if texts else hits.ids

    def there(query: F32) -> Any:
        answer = client.search(query, k=k, with_text=texts, with_metadata=False)
        return [hit.text if texts else hit.id for hit in answer.hits]

    times: dict[str, list[float]] = {"in_process": [], "cluster": [], "floor": []}
    for warm in (True, False):
        for query in queries:
            one, in_process_s = timed(here, query)
            other, cluster_s = timed(there, query)
            assert list(one) == list(other)
            _, floor_s = timed(bare, query.tobytes())
            if not warm:
                times["floor"].append(floor_s)
                times["in_process"].append(in_process_s)
                times["cluster"].append(cluster_s)
    figures = {
        f"{name}_{point}_ms": round(1e3 * float(np.percentile(seconds, int(point[1:]))), 3)
        for name, seconds in times.items()
        for point in ("p50", "p99")
    }
    overhead = figures["cluster_p50_ms"] - figures["in_process_p50_ms"]
    return {"texts": texts, **figures, "overhead_p50_ms": round(overhead, 3)}


def timed(call: Callable[[T], Any], query: T) -> tuple[Any, float]:
    """What a call gives, and its seconds."""
    began = time.perf_counter()
    found = call(query)
    return found, time.perf_counter() - began


def shard_calls(index: Path) -> dict[str, float]:
    """Microseconds at p50 of the smallest call to a shard server, without and with mTLS."""
    spawn = multiprocessing.get_context("spawn")
    made = inner_certificates()
    servers = []
    for tls in (None, made):
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=serve_shard, args=(index, tls, theirs), daemon=True)
        process.start()
        servers.append((process, ours, ours.recv()))
    try:
        plain, secured = (address for _, _, address in servers)
        return asyncio.run(by_turns(plain, secured, made.gateway))
    finally:
        for process, ours, _ in servers:
            ours.send("end")
            process.join(30)


def serve_shard(index: Path, tls: InnerCertificates | None, pipe: Connection) -> None:
    """A shard server in a process of its own, until it is told to end."""
    manifest = open_generation(index, shards=()).manifest
    held = HeldShard.open(index, manifest.generation, manifest.shards[0].id)
    server = ShardServer(held, threads=2, tls=None if tls is None else tls.shard)
    server.start()
    pipe.send(server.address)
    pipe.recv()
    server.stop(0.0)


async def by_turns(plain: str, secured: str, tls: InnerTls) -> dict[str, float]:
    """Calls to both, by turns."""
    channels = {"plain": ShardChannel(plain, ""), "mtls": ShardChannel(secured, "", tls=tls)}
    times: dict[str, list[float]] = {name: [] for name in channels}
    for _ in range(CALLS):
        for name, channel in channels.items():
            began = time.perf_counter()
            await channel.identity(10.0)
            times[name].append(time.perf_counter() - began)
    for channel in channels.values():
        await channel.close()
    return {name: round(1e6 * float(np.median(seconds)), 1) for name, seconds in times.items()}


def markdown(document: dict[str, Any]) -> str:
    """Conditions and the two tables."""
    about, calls = document["about"], document["shard_calls"]
    index = about["index"]
    lines = [
        f"# What a cluster adds to a search, {about['collection']}, {about['date']}",
        "",
        f"{index['passages']:,} passages in {index['shards']} shards, k = {about['k']}, "
        f"{about['queries']} queries as vectors, one after the other; `tartan serve` with "
        f"{about['replicas']} replicas a shard, by turns with `Index.search` in this process. "
        "Milliseconds.",
        "",
        conditions(about),
        "",
        "| | in process p50 | p99 | cluster p50 | p99 | added, p50 | floor p50 | p99 |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {'with texts' if row['texts'] else 'ids alone'} | {row['in_process_p50_ms']:.2f} "
        f"| {row['in_process_p99_ms']:.2f} | {row['cluster_p50_ms']:.2f} "
        f"| {row['cluster_p99_ms']:.2f} | {row['overhead_p50_ms']:.2f} "
        f"| {row['floor_p50_ms']:.2f} | {row['floor_p99_ms']:.2f} |"
        for row in document["rows"]
    ]
    lines += [
        "",
        "The floor: as many bytes through a gateway to as many shards, over gRPC in Python, where "
        "nobody does anything with them.",
        "",
        f"The smallest call to a shard server takes {calls['plain']:.0f} µs in clear text and "
        f"{calls['mtls']:.0f} µs with mTLS, p50 of {CALLS:,} calls each, by turns.",
    ]
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("index", type=Path)
    parser.add_argument("--queries", type=Path, required=True, help="queries.jsonl")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--tag", default="", help="end of the files' names")
    return parser.parse_args()


if __name__ == "__main__":
    main()
