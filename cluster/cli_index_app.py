"""`tartan index`: what each of its commands takes, but for those that change an index
(`cli_change.py`). Heavy imports stand inside the functions."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cluster import cli_change
from cluster.cli_calibrate import calibrate
from cluster.cli_index_options import (
    Bits,
    BuiltIndex,
    Centroids,
    Codec,
    CodecName,
    CorpusFiles,
    Device,
    Dim,
    DocMaxlen,
    Language,
    LongDocuments,
    LongDocumentsName,
    MaxWorkers,
    MinWorkers,
    Model,
    OnError,
    OnErrorName,
    Overwrite,
    PoolFactor,
    Restart,
    Seed,
    Shards,
    Staging,
    Workers,
)
from cluster.cli_options import IndexPath, IndexPlace, Json
from colbert_core.storage import location
from colbert_core.text.aliases import DEFAULT_MODEL

index_app = typer.Typer(no_args_is_help=True, help="Build, change, look at and check indexes.")


class SourceFormat(StrEnum):
    """The engines whose indexes can be imported."""

    auto = "auto"
    stanford = "stanford"
    fast_plaid = "fast-plaid"
    next_plaid = "next-plaid"


@index_app.command("build")
def index_build(
    corpus: CorpusFiles,
    out: BuiltIndex,
    model: Model = DEFAULT_MODEL,
    bits: Bits = 2,
    codec: Codec = CodecName.tartan,
    shards: Shards = None,
    dim: Dim = None,
    centroids: Centroids = None,
    doc_maxlen: DocMaxlen = None,
    pool_factor: PoolFactor = 1,
    long_documents: LongDocuments = LongDocumentsName.TRUNCATE,
    language: Language = None,
    workers: Workers = None,
    min_workers: MinWorkers = None,
    max_workers: MaxWorkers = None,
    device: Device = None,
    on_error: OnError = OnErrorName.fail,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    restart: Restart = False,
    staging: Staging = None,
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
        language=language,
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
    language: Language = None,
    shards: Shards = None,
    overwrite: Overwrite = False,
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
        language=language,
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
index_app.command("calibrate")(calibrate)
