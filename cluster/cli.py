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

from cluster import cli_change
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
index_app = typer.Typer(no_args_is_help=True, help="Build, change, look at and check indexes.")
app.add_typer(index_app, name="index")


class SourceFormat(StrEnum):
    """The engines whose indexes can be imported."""

    auto = "auto"
    stanford = "stanford"
    fast_plaid = "fast-plaid"
    next_plaid = "next-plaid"


class CodecName(StrEnum):
    """The codecs that an index can be built with."""

    tartan = "tartan"
    colbertv2 = "colbertv2"


class OnErrorName(StrEnum):
    """What becomes of a passage that the model fails on."""

    fail = "fail"
    skip = "skip"


class LongDocuments(StrEnum):
    """What becomes of documents that are longer than a passage."""

    ERROR = "error"
    TRUNCATE = "truncate"
    SPLIT = "split"


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
    long_documents: Annotated[
        LongDocuments,
        typer.Option(
            "--long-documents",
            help="Of documents with more tokens than are kept of a passage: `truncate` counts and "
            "reports them, `error` stops at one, `split` indexes windows that overlap by a "
            "quarter; a hit is the document, and says which window it was.",
        ),
    ] = LongDocuments.TRUNCATE,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Exactly so many. See --max-workers.")
    ] = None,
    min_workers: Annotated[
        int | None,
        typer.Option("--min-workers", help="Ask an autoscaler for so many.  [default: 1]"),
    ] = None,
    max_workers: Annotated[
        int | None,
        typer.Option(
            "--max-workers",
            help="Follow the cluster up to so many; by default one per GPU, else per CPU, as nodes "
            "join and leave.",
        ),
    ] = None,
    on_error: Annotated[
        OnErrorName,
        typer.Option(
            "--on-error",
            help="A passage that the model fails on is found and named: it ends the job (`fail`), "
            "or is left out (`skip`).",
        ),
    ] = OnErrorName.fail,
    seed: Annotated[int, typer.Option("--seed", help="Of the sample and centroids.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Publish a new generation where an index exists.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw an unfinished build in INDEX away.")
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

    Killed, interrupted, or out of disk, the same command goes on where it stopped, and the index is
    the same, byte for byte. With other settings, another model or a changed corpus it refuses, and
    says what differs; `--restart` begins anew.

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
        long_documents=long_documents.value,
        workers=workers,
        min_workers=min_workers,
        max_workers=max_workers,
        on_error=on_error.value,
        seed=seed,
        overwrite=overwrite,
        restart=restart,
        staging=staging,
    )


@index_app.command("inspect")
def index_inspect(index: IndexPlace, as_json: Json = False) -> None:
    """Show what an index holds, and its bytes by component."""
    from cluster.cli_index import inspect

    inspect(location(index), as_json=as_json)


@index_app.command("verify")
def index_verify(
    index: IndexPlace,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also decode every vector, posting list and text.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Read every byte of an index: exit 0 if it is whole, 1 naming every file that is not.

    Says of each what is wrong, what that does to searches, and whether `repair` can mend it.
    """
    from cluster.cli_verify import verify_command

    raise typer.Exit(verify_command(location(index), deep=deep, as_json=as_json))


@index_app.command("repair")
def index_repair(
    index: IndexPath,
    set_current: Annotated[
        bool,
        typer.Option(
            "--set-current",
            help="Where the live generation cannot be made whole, make the newest whole one live.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Make damaged files again where they follow from whole ones: exit 0 if all is whole then.

    Posting lists follow from codes; residuals, codes, ids and texts follow from nothing. A file is
    put in place only if it comes out as the manifest lists it, to the bit.
    """
    from cluster.cli_verify import repair_command

    raise typer.Exit(repair_command(index, set_current=set_current, as_json=as_json))


@index_app.command("import")
def index_import(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of the other index.")],
    out: Annotated[Path, typer.Option("--out", metavar="INDEX", help="Where the index goes.")],
    format: Annotated[
        SourceFormat, typer.Option("--format", help="Whose index it is; auto looks at its files.")
    ] = SourceFormat.auto,
    ids: Annotated[
        Path | None,
        typer.Option("--ids", metavar="FILE", help="An id a line; by default 0, 1, 2, …"),
    ] = None,
    collection: Annotated[
        list[str] | None,
        typer.Option(
            "--collection",
            metavar="CORPUS",
            help="The corpus that was indexed, in its order: gives ids, texts and metadata.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Where its checkpoint is, if not where its metadata say."),
    ] = None,
    shards: Annotated[
        int | None, typer.Option("--shards", help="By default as few as keep below 8 GiB.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Publish a new generation where an index exists.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make an index of another engine's: Stanford ColBERT's, fast-plaid's or next-plaid's.

    Centroids, codes and residuals are kept as they are; counts are compared, posting lists rebuilt
    from the codes and compared, vectors decoded. What is odd is printed, what is damaged refused.

    Example: `tartan index import ~/indexes/msmarco.nbits=2 --out msmarco.tartan --collection
    collection.tsv`
    """
    from cluster.cli_import import import_command

    import_command(
        source,
        out,
        format=format.value,
        ids=ids,
        collection=collection,
        model=model,
        shards=shards,
        overwrite=overwrite,
        as_json=as_json,
    )


class Dtype(StrEnum):
    """What exported vectors are."""

    float16 = "float16"
    float32 = "float32"


@index_app.command("export")
def index_export(
    index: IndexPath,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new or empty folder.")],
    dtype: Annotated[Dtype, typer.Option("--dtype", help="Of the vectors.")] = Dtype.float16,
    as_json: Json = False,
) -> None:
    """Write an index as plain files: vectors and lengths as .npy, ids and texts as JSON lines.

    Example: `tartan index export INDEX --out plain`
    """
    from cluster.cli_import import export_command

    export_command(index, out, dtype=dtype.value, as_json=as_json)


cli_change.register(index_app)


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

Filter = Annotated[
    str | None,
    typer.Option(
        "--filter",
        metavar="EXPR",
        help="Search only where the metadata fits: `year >= 2019 and lang in ('de', 'en')`, "
        "`not exists(retracted)`, `title prefix 'Graph'`, `_id in ('a', 'b')`. "
        "`tartan index inspect` lists the fields.",
    ),
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
    filter: Filter = None,
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

    Examples: `tartan search "how do I merge sorted iterables" --index INDEX -k 5 --explain`,
    `tartan search "parsing" --index INDEX --filter 'year >= 2019 and not venue = "workshop"'`
    """
    from cluster.cli_search import Ask, search

    search(
        Ask(query, k, recall, nprobe, candidates, scored, exact, explain, timeout_s, filter),
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
    filter: Filter = None,
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
        only=filter,
        exact=exact,
        uncompressed=uncompressed,
        limit=limit,
        as_json=as_json,
    )


@app.command("plan")
def plan_command(
    passages: Annotated[float, typer.Option("--passages", help="How many; 140e6 works too.")],
    tokens_per_passage: Annotated[
        float, typer.Option("--tokens-per-passage", help="Stored vectors of one, on average.")
    ],
    bits: Annotated[int, typer.Option("--bits", help="Residual bits.")] = 2,
    target_qps: Annotated[float, typer.Option("--target-qps", help="Queries a second.")] = 10.0,
    dim: Annotated[int, typer.Option("--dim", help="Dimensions of a vector.")] = 128,
    query_tokens: Annotated[int, typer.Option("--query-tokens", help="Of a query.")] = 16,
    replicas: Annotated[int, typer.Option("--replicas", help="Of each shard.")] = 1,
    centroids: Annotated[
        int | None, typer.Option("--centroids", help="By default 2^⌊log2(16·√tokens)⌋.")
    ] = None,
    text_bytes: Annotated[
        float | None, typer.Option("--text-bytes", help="Of a passage; by default 5 a token.")
    ] = None,
    machine_memory: Annotated[
        float, typer.Option("--machine-memory", help="GiB of a serving machine.")
    ] = 64.0,
    machine_cores: Annotated[
        int, typer.Option("--machine-cores", help="Cores of a serving machine.")
    ] = 16,
    index_cores: Annotated[
        int, typer.Option("--index-cores", help="Cores that the index job has, of all machines.")
    ] = 64,
    encode_rate: Annotated[
        float,
        typer.Option(
            "--encode-rate",
            help="Tokens that a core (or GPU) encodes a second; the default was measured with "
            "all-MiniLM-L6-v2 on one core. Measure your model.",
        ),
    ] = 11_400.0,
    as_json: Json = False,
) -> None:
    """Say what a corpus takes before it is indexed: bytes, shards, memory, machines, hours.

    Every figure is printed with its formula; docs/capacity.md says how well they fit.

    Example: `tartan plan --passages 140e6 --tokens-per-passage 60 --bits 2 --target-qps 100`
    """
    from cluster.capacity import GIB, Workload
    from cluster.cli_plan import plan_command as print_plan

    work = Workload(
        passages=int(passages),
        tokens_per_passage=tokens_per_passage,
        bits=bits,
        target_qps=target_qps,
        dim=dim,
        query_tokens=query_tokens,
        replicas=replicas,
        centroids=centroids,
        text_bytes=text_bytes,
        machine_memory=int(machine_memory * GIB),
        machine_cores=machine_cores,
        index_cores=index_cores,
        encode_rate=encode_rate,
    )
    print_plan(work, as_json=as_json)


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
