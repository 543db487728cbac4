"""The `tartan` command: what each subcommand takes. What it does is in the module that it calls.

Heavy imports stand inside the functions, so that `tartan --help` answers at once.
"""

from __future__ import annotations

import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from colbert_core.errors import InvalidInput, TartanError
from colbert_core.storage import location

app = typer.Typer(
    name="tartan",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Search text by late interaction: build a compressed ColBERTv2 index, serve and ask it."
    "\n\n"
    "First steps: `tartan demo`, or `tartan index build corpus.jsonl --out INDEX` and then "
    '`tartan search "your question" --index INDEX`.',
)
index_app = typer.Typer(no_args_is_help=True, help="Build, look at and check indexes.")
app.add_typer(index_app, name="index")


class CodecName(StrEnum):
    """The codecs that an index can be built with."""

    tartan = "tartan"
    colbertv2 = "colbertv2"


def _local(text: str) -> Path:
    place = location(text)
    if not isinstance(place, Path):
        raise InvalidInput(f"{text}: this command works on local indexes; give a folder")
    return place


IndexPath = Annotated[
    Path, typer.Argument(metavar="INDEX", help="Folder of the index.", parser=_local)
]
IndexPlace = Annotated[
    str, typer.Argument(metavar="INDEX", help="Folder of the index, or its URI (s3://, gs://).")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@index_app.command("build")
def index_build(
    corpus: Annotated[
        list[str],
        typer.Argument(
            metavar="CORPUS...",
            help="Files, folders, globs, or URIs of these (s3://, gs://): JSONL (`_id` or `id`, "
            "`text`, optional `title`; other fields are kept as metadata), TSV (`id<TAB>text`), "
            "Parquet; also gzipped.",
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            metavar="INDEX",
            help="Where the index goes: a folder, or a URI (s3://, gs://).",
        ),
    ],
    model: Annotated[
        str, typer.Option("--model", help="Path, hub name, or alias of a ColBERT or any encoder.")
    ] = "minilm-untrained",
    bits: Annotated[int, typer.Option("--bits", help="Residual bits.")] = 2,
    codec: Annotated[
        CodecName, typer.Option("--codec", help="`tartan`, or `colbertv2` as in the paper.")
    ] = CodecName.tartan,
    shards: Annotated[
        int | None, typer.Option("--shards", help="By default as few as keep below 8 GiB.")
    ] = None,
    dim: Annotated[
        int | None,
        typer.Option("--dim", help="Reduce by PCA; by default the model's choice."),
    ] = None,
    centroids: Annotated[
        int | None, typer.Option("--centroids", help="By default 2^⌊log2(16·√tokens)⌋.")
    ] = None,
    doc_maxlen: Annotated[
        int | None, typer.Option("--doc-maxlen", help="Tokens kept of a passage.")
    ] = None,
    pool_factor: Annotated[
        int,
        typer.Option("--pool-factor", help="So many times fewer vectors: alike tokens merged."),
    ] = 1,
    workers: Annotated[
        int | None, typer.Option("--workers", help="By default one per GPU, else per CPU.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the sample and centroids.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Publish a new generation where an index exists.")
    ] = False,
    staging: Annotated[
        Path | None,
        typer.Option(
            "--staging",
            metavar="DIR",
            help="With a URI: where the index is built, seen by all workers; by default the cache.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Encode a corpus on Ray and publish it as an index.

    Starts a local Ray, or joins the cluster that RAY_ADDRESS names. The corpus is checked whole
    before anything is encoded.

    Example: `tartan index build corpus.jsonl --out notes.tartan --bits 2 --shards 2`
    """
    from cluster.cli_index import build

    build(
        corpus,
        location(out),
        as_json=as_json,
        model=model,
        bits=bits,
        codec=codec.value,
        shards=shards,
        dim=dim,
        centroids=centroids,
        doc_maxlen=doc_maxlen,
        pool_factor=pool_factor,
        workers=workers,
        seed=seed,
        overwrite=overwrite,
        staging=staging,
    )


@index_app.command("inspect")
def index_inspect(index: IndexPlace, as_json: Json = False) -> None:
    """Show what an index holds, and its bytes by component."""
    from cluster.cli_index import inspect

    inspect(location(index), as_json=as_json)


@index_app.command("verify")
def index_verify(index: IndexPlace, as_json: Json = False) -> None:
    """Read every byte of an index: exit 0 if it is whole, 1 naming the file and what is wrong."""
    from cluster.cli_index import verify_index

    verify_index(location(index), as_json=as_json)


@app.command("serve")
def serve_command(
    index: IndexPlace,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.")] = 50051,
    replicas: Annotated[int, typer.Option("--replicas", help="Shard servers for each shard.")] = 1,
    device: Annotated[
        str, typer.Option("--device", help="Where shards are searched: cpu, or cuda for GPUs.")
    ] = "cpu",
    start_timeout_s: Annotated[
        float, typer.Option("--start-timeout", help="Seconds for all servers to come up.")
    ] = 120.0,
) -> None:
    """Serve an index over gRPC until SIGTERM or Ctrl-C.

    Prints one line when it is ready to answer. There is no authentication yet: listen beyond
    loopback only on a network that you trust.
    """
    from cluster.serve import serve

    code = serve(index, host, port, replicas, device=device, start_timeout_s=start_timeout_s)
    raise typer.Exit(code)


Target = Annotated[str | None, typer.Option("--target", metavar="HOST:PORT", help="A gateway.")]
SearchedIndex = Annotated[
    str | None,
    typer.Option("--index", metavar="INDEX", help="An index (folder or URI), searched in-process."),
]
Recall = Annotated[
    float | None,
    typer.Option("--recall", help="Share of the exact top k to find (default 0.99; 1: exact)."),
]
Nprobe = Annotated[int | None, typer.Option("--nprobe", help="Centroids per query token.")]
Candidates = Annotated[
    int | None, typer.Option("--candidates", help="Passages compared by centroids, per shard.")
]
Scored = Annotated[
    int | None,
    typer.Option("--scored", help="Of these, scored precisely; 0: centroids alone rank."),
]


@app.command("search")
def search_command(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    target: Target = None,
    index: SearchedIndex = None,
    k: Annotated[int, typer.Option("-k", help="Hits.")] = 10,
    recall: Recall = None,
    nprobe: Nprobe = None,
    candidates: Candidates = None,
    scored: Scored = None,
    exact: Annotated[bool, typer.Option("--exact", help="Score every passage.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what each query token matched.")
    ] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds.")] = 30.0,
    device: Annotated[
        str, typer.Option("--device", help="With --index: cpu, cuda, or one GPU, such as cuda:1.")
    ] = "cpu",
    as_json: Json = False,
) -> None:
    """Search a running gateway (default: 127.0.0.1:50051), or an index in this process.

    Example: `tartan search "how do I merge sorted iterables" --index INDEX -k 5 --explain`
    """
    from cluster.cli_search import Ask, search

    search(
        Ask(query, k, recall, nprobe, candidates, scored, exact, explain, timeout_s),
        target=target,
        index=location(index) if index else None,
        device=device,
        as_json=as_json,
    )


@app.command("eval")
def eval_command(
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="Folder in BEIR's layout.")],
    target: Target = None,
    index: SearchedIndex = None,
    split: Annotated[str, typer.Option("--split", help="qrels/<split>.tsv")] = "test",
    recall: Recall = None,
    nprobe: Nprobe = None,
    candidates: Candidates = None,
    scored: Scored = None,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Also overlap with exhaustive search of the same index."),
    ] = False,
    uncompressed: Annotated[
        bool,
        typer.Option(
            "--uncompressed",
            help="Also exact search over vectors encoded afresh: its measures, and overlap.",
        ),
    ] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", help="Only the first so many queries.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure quality and latency on a collection with relevance judgements."""
    from cluster.cli_eval import evaluate_command

    evaluate_command(
        data,
        split,
        target=target,
        index=location(index) if index else None,
        knobs={"recall": recall, "nprobe": nprobe, "candidates": candidates, "scored": scored},
        exact=exact,
        uncompressed=uncompressed,
        limit=limit,
        as_json=as_json,
    )


@app.command("demo")
def demo_command(
    keep: Annotated[bool, typer.Option("--keep", help="Stay up until Ctrl-C.")] = False,
    out: Annotated[
        Path, typer.Option("--out", metavar="INDEX", help="Where the demo's index goes.")
    ] = Path("demo-index"),
    model: Annotated[str, typer.Option("--model", help="Path, hub name or alias.")] = (
        "minilm-untrained"
    ),
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.")] = 0,
) -> None:
    """Index the documentation of Python's standard library, serve it, and ask it questions."""
    from cluster.demo import demo

    raise typer.Exit(demo(out, model=model, port=port, keep=keep))


def main() -> None:
    """Run the command line; an expected error is one line on stderr and an exit code of its own."""
    signal.signal(signal.SIGTERM, _end)
    try:
        app()
    except TartanError as error:
        print(f"tartan: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except TimeoutError as error:
        print(f"tartan: {error}", file=sys.stderr)
        sys.exit(8)
    except KeyboardInterrupt:
        print("tartan: interrupted", file=sys.stderr)
        sys.exit(130)
    except SystemExit as stop:
        if stop.code == signal.SIGTERM:  # _end, or the handler that Ray puts in its place
            print("tartan: terminated", file=sys.stderr)
            sys.exit(143)
        raise


def _end(number: int, _frame: object) -> NoReturn:
    """Leave every block on the way out, so that temporary folders and half an index are removed."""
    raise SystemExit(number)


if __name__ == "__main__":
    main()
