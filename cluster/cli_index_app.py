"""`tartan index`: what each of its commands takes, but for those that change an index
(`cli_change.py`). Heavy imports stand inside the functions."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cluster import cli_change
from cluster.cli_options import IndexPath, IndexPlace, Json
from colbert_core.storage import location

index_app = typer.Typer(no_args_is_help=True, help="Build, change, look at and check indexes.")


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
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            help="cuda asks for GPUs, also where an autoscaler must bring them first, and cpu for "
            "none; by default GPUs where there are some now.",
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
        device=device,
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
