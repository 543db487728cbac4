"""What every engine's adapter shares: vectors in, one JSON request in, one JSON answer out.

An adapter is a small script that runs inside its engine's environment, in a process of its own:

    python engine_NAME.py REQUEST.json ANSWER.json

so this module may import only numpy and the standard library.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Vectors:
    """The fp16 vectors that every engine gets.

    Attributes:
        tokens: float16 [T, D], all passages end to end, memory-mapped.
        offsets: int64 [N + 1], where each passage starts.
        queries: float32 [L, D] each (fp16-exact).
    """

    tokens: np.ndarray
    offsets: np.ndarray
    queries: list[np.ndarray]

    @classmethod
    def load(cls, folder: Path) -> Vectors:
        """Read what `vectors.py` wrote to `folder`."""
        lengths = np.load(folder / "query_lengths.npy")
        flat = np.load(folder / "queries.npy").astype(np.float32)
        return cls(
            tokens=np.load(folder / "tokens.npy", mmap_mode="r"),
            offsets=np.concatenate([[0], np.cumsum(np.load(folder / "doclens.npy"))]),
            queries=np.split(flat, np.cumsum(lengths)[:-1]),
        )

    def __len__(self) -> int:
        """How many passages there are."""
        return len(self.offsets) - 1

    def passage(self, pid: int) -> np.ndarray:
        """float16 [tokens, D] of one passage."""
        return np.asarray(self.tokens[self.offsets[pid] : self.offsets[pid + 1]])


class Engine(ABC):
    """One engine, as its adapter presents it. Passages are named by their ordinals.

    Attributes:
        threads: that one query may use.
    """

    threads = 1

    def import_builder(self) -> None:  # noqa: B027 - optional
        """Import what only building needs; not timed, as no engine's imports are."""

    @abstractmethod
    def build(
        self, vectors: Vectors, index: Path, options: dict[str, Any]
    ) -> dict[str, float] | None:
        """Write an index of all of `vectors` to `index`; seconds by stage, where it knows them."""

    @abstractmethod
    def open(self, index: Path) -> None:
        """Make ready to search; everything that is paid once."""

    @abstractmethod
    def prepare(self, query_LD: np.ndarray) -> Any:
        """A query in the engine's own type; not timed."""

    @abstractmethod
    def search(self, query: Any, k: int, setting: dict[str, Any]) -> Sequence[int | str]:
        """At most `k` passages, best first; timed. Ids that are strings are turned into numbers
        outside of what is timed."""

    def search_many(
        self, queries: Sequence[Any], k: int, setting: dict[str, Any], threads: int
    ) -> None:
        """All queries, `threads` of them at a time; timed."""
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda query: self.search(query, k, setting), queries))


def run(make_engine: Callable[[], Engine]) -> None:
    """Answer the request named on the command line."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    set_torch_threads(request["threads"])
    engine = make_engine()
    engine.threads = request["threads"]
    index = Path(request["index"])
    vectors = Vectors.load(Path(request["vectors"]))
    baseline = memory()
    answer: dict[str, Any]
    if request["action"] == "build":
        answer = timed_build(engine, vectors, index, request["options"])
    else:
        answer = timed_searches(engine, vectors, index, request)
    answer["memory_before"] = baseline
    answer["memory"] = memory()
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")


def timed_build(
    engine: Engine, vectors: Vectors, index: Path, options: dict[str, Any]
) -> dict[str, Any]:
    """Build once; wall and processor seconds, and wall seconds by stage."""
    engine.import_builder()
    with PrivatePeak() as private:
        wall, cpu = time.perf_counter(), time.process_time()
        stages = engine.build(vectors, index, options)
        taken = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    return taken | {"stages": stages or {}, "private_peak": private.bytes}


def timed_searches(
    engine: Engine, vectors: Vectors, index: Path, request: dict[str, Any]
) -> dict[str, Any]:
    """Open once, then every (setting, k) that was asked for, then many queries at a time."""
    start = time.perf_counter()
    engine.open(index)
    opened = time.perf_counter() - start
    queries = [engine.prepare(query) for query in vectors.queries]
    runs = [one_run(engine, queries, run["setting"], run["k"], request) for run in request["runs"]]
    together = [
        many_at_once(engine, queries, run["setting"], run["k"], run["threads"], request)
        for run in request["together"]
    ]
    return {"open_seconds": opened, "runs": runs, "together": together}


def one_run(
    engine: Engine, queries: list[Any], setting: dict[str, Any], k: int, request: dict[str, Any]
) -> dict[str, Any]:
    """Several passes over the queries, one query at a time, after a warm-up.

    Stops after the pass in which `max_seconds` went by. `latency_ms` and `cpu_ms` hold one median
    over the passes per query: wall time, and processor time of all threads, which a busy machine
    hardly changes. `cpu_per_wall` shows both hidden threads (> 1) and a busy machine (< 1).
    """
    warm_up(engine, queries, setting, k, request)
    passes: list[list[tuple[float, float]]] = []
    top: list[list[int]] = []
    wall, cpu = time.perf_counter(), time.process_time()
    while len(passes) < request["passes"]:
        top, latencies = [], []
        for query in queries:
            start, used = time.perf_counter(), time.process_time()
            found = engine.search(query, k, setting)
            latencies.append((time.perf_counter() - start, time.process_time() - used))
            top.append([int(pid) for pid in found])
        passes.append(latencies)
        if time.perf_counter() - wall > request["max_seconds"]:
            break
    spent = time.perf_counter() - wall
    latency_ms, cpu_ms = 1e3 * np.median(np.array(passes), axis=0).T
    return {
        "passes": len(passes),
        "latency_ms": latency_ms.tolist(),
        "cpu_ms": cpu_ms.tolist(),
        "cpu_per_wall": (time.process_time() - cpu) / spent,
        "memory": memory(),
        "top": top,
    }


def warm_up(
    engine: Engine, queries: list[Any], setting: dict[str, Any], k: int, request: dict[str, Any]
) -> None:
    """The first `warmup` queries, but no longer than a tenth of `max_seconds`."""
    start = time.perf_counter()
    for query in queries[: request["warmup"]]:
        engine.search(query, k, setting)
        if time.perf_counter() - start > request["max_seconds"] / 10:
            break


def many_at_once(
    engine: Engine,
    queries: list[Any],
    setting: dict[str, Any],
    k: int,
    threads: int,
    request: dict[str, Any],
) -> dict[str, Any]:
    """Queries a second with `threads` of them at a time: the best of several passes."""
    warm_up(engine, queries, setting, k, request)
    rates: list[float] = []
    begun = time.perf_counter()
    while len(rates) < request["passes"]:
        start = time.perf_counter()
        engine.search_many(queries, k, setting, threads)
        rates.append(len(queries) / (time.perf_counter() - start))
        if time.perf_counter() - begun > request["max_seconds"]:
            break
    return {"queries_per_s": max(rates), "passes": len(rates)}


def memory() -> dict[str, int]:
    """Peak resident, resident, and anonymous resident bytes of this process.

    From /proc, because `ru_maxrss` survives exec and would show the parent's peak.
    """
    fields = {}
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key in ("VmHWM", "VmRSS", "RssAnon"):
            fields[key] = int(value.split()[0]) * 1024
    return {"peak": fields["VmHWM"], "resident": fields["VmRSS"], "anonymous": fields["RssAnon"]}


class PrivatePeak:
    """The most anonymous memory that was resident, looked at twenty times a second.

    The peak that the system keeps (VmHWM) counts pages of mapped files as well: here the vectors,
    which every engine reads and which cost nothing when memory is short.
    """

    def __enter__(self) -> PrivatePeak:
        self.bytes = memory()["anonymous"]
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            self.bytes = max(self.bytes, memory()["anonymous"])


def set_torch_threads(threads: int) -> None:
    """Limit torch where the engine uses it; the environment variables came from the harness."""
    if "torch" in os.environ.get("BENCH_IMPORTS", ""):
        import torch

        torch.set_num_threads(threads)
        torch.set_num_interop_threads(threads)
