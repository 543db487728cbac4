"""`tartan demo`: the whole of Tartan on one machine, on text that every machine has.

write corpus ─ build a 2-shard index on Ray ─ serve it ─ ask over gRPC ─ say what to type next
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from cluster.build_report import BuildReport
from cluster.cli_search import snippet
from cluster.client import Client, SearchAnswer
from cluster.demo_corpus import write_corpus
from cluster.evaluation import percentiles
from cluster.progress import progress_for
from colbert_core.errors import Unavailable
from colbert_core.index import describe, read_current

QUESTIONS = (
    "merge two sorted iterables lazily",
    "run a function in another process and wait for its result",
    "parse a date from a string",
    "remember the results of a function so that it is not computed twice",
    "find files whose names match a pattern",
    "compare two texts line by line and show what changed",
)
SHARDS = 2
HITS = 3
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 30.0
LATENCY_ROUNDS = 5


def demo(out: Path, *, model: str, port: int, keep: bool) -> int:
    """Run the demo; returns the exit code.

    Args:
        out: where the index goes; a new generation if there is one.
        model: path, hub name or alias.
        port: of the gateway; 0 takes a free one.
        keep: stay up until Ctrl-C.
    """
    console = Console(highlight=False)
    began = time.monotonic()
    report = _build(console, out, model)
    _show_sizes(console, report, out)
    with served(out, port) as address:
        console.print(f"\n[bold]3. Asking {address} over gRPC[/bold]")
        with Client(address, timeout_s=30.0) as client:
            for question in QUESTIONS:
                _show(console, question, client.search(question, k=HITS, explain=True))
            _show_latency(console, client)
        console.print(f"\nAll of it took {time.monotonic() - began:.0f} s.")
        _show_next(console, out, address, keep)
        if keep:
            console.print("\nServing until Ctrl-C …")
            _wait_for_stop()
    return 0


def _build(console: Console, out: Path, model: str) -> BuildReport:
    from cluster.index_job import build_index

    with tempfile.TemporaryDirectory(prefix="tartan-demo-") as folder:
        corpus = Path(folder) / "python-docs.jsonl"
        count = write_corpus(corpus)
        console.print(
            f"[bold]1. The corpus[/bold]: {count:,} modules, classes and functions of Python "
            f"{sys.version.split()[0]}'s standard library, read from this interpreter"
        )
        console.print(f"[bold]2. Building {out} on Ray[/bold] ({model}, {SHARDS} shards)")
        return build_index(
            str(corpus),
            out,
            model=model,
            shards=SHARDS,
            overwrite=True,
            restart=True,
            progress=progress_for(),
        )


def _show_sizes(console: Console, report: BuildReport, out: Path) -> None:
    about = describe(read_current(out))
    fp16 = 2 * report.dim * report.tokens
    index = about["bytes_total"] - about["bytes"]["texts"]
    console.print(
        f"   {report.passages:,} passages, {report.tokens:,} token vectors of {report.dim} "
        f"dimensions in {report.seconds['total']:.0f} s\n"
        f"   vectors in fp16 {fp16 / 1e6:.1f} MB → index {index / 1e6:.1f} MB: "
        f"[bold]{fp16 / index:.1f} × smaller[/bold] ({report.bits} bits, "
        f"{report.bytes_per_token:.1f} bytes a token; {about['bytes']['texts'] / 1e6:.1f} MB of "
        "texts beside it)"
    )


@contextmanager
def served(index: Path, port: int) -> Iterator[str]:
    """`tartan serve` in a process of its own; gives the address that it answers at."""
    command = [sys.executable, "-m", "cluster.cli", "serve", str(index), "--port", str(port)]
    command += ["--set", "embedding_cache_bytes=0"]  # the same questions are asked and timed again
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
        try:
            yield _ready_address(server, log)
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _ready_address(server: subprocess.Popen[str], log: TextIO) -> str:
    """The address in the line that `tartan serve` prints when it is ready."""
    deadline = time.monotonic() + START_TIMEOUT_S
    stdout = server.stdout
    if stdout is None:
        raise AssertionError("the server was started without a pipe")
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        while time.monotonic() < deadline:
            if selector.select(timeout=1.0):
                line = stdout.readline()
                if line.startswith("tartan: serving"):
                    return line.rsplit(" ", 1)[1].strip()
                if not line:
                    break
    log.seek(0)
    said = log.read()[-2000:]
    raise Unavailable(
        f"`tartan serve` was not ready within {START_TIMEOUT_S:.0f} s; it said:\n{said}"
    )


def _show(console: Console, question: str, answer: SearchAnswer) -> None:
    console.print(f"\n[bold green]?[/bold green] {question}")
    for hit in answer.hits:
        line = Text(f"  {hit.score:6.2f}  ", style="cyan")
        line.append(hit.id, style="bold white")
        console.print(line)
        shown = snippet(hit)
        shown.truncate(200, overflow="ellipsis")
        console.print(Padding(shown, (0, 0, 0, 10)))


def _show_latency(console: Console, client: Client) -> None:
    seconds = []
    timings: list[float] = []
    for _ in range(LATENCY_ROUNDS):
        for question in QUESTIONS:
            began = time.perf_counter()
            answer = client.search(question, k=10, timings=True)
            seconds.append(time.perf_counter() - began)
            timings.append(answer.timings_ms["encode"] / 1000)
    whole, encode = percentiles(seconds), percentiles(timings)
    console.print(
        f"\n[bold]Latency[/bold] over gRPC, {len(seconds)} queries, k = 10: p50 "
        f"{whole['p50']:.1f} ms, p95 {whole['p95']:.1f} ms (of which the model encodes the query "
        f"for {encode['p50']:.1f} ms)"
    )


def _show_next(console: Console, out: Path, address: str, keep: bool) -> None:
    tartan = Path(sys.argv[0]).name if Path(sys.argv[0]).name == "tartan" else "tartan"
    folder = os.path.relpath(Path(sys.executable).parent)
    command = f"{folder}/{tartan}"
    console.print("\n[bold]What to type next[/bold]")
    if keep:
        console.print(f'   {command} search "open a file for reading" --target {address} --explain')
    console.print(f'   {command} search "open a file for reading" --index {out}')
    console.print(f"   {command} index inspect {out}")
    console.print(f"   {command} index build your-corpus.jsonl --out your-index")
    console.print(f"   {command} serve your-index --port 50051")


def _wait_for_stop() -> None:
    try:
        signal.pause()
    except KeyboardInterrupt:
        return
