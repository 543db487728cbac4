"""What `tartan index build` takes; the import takes some of it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class CodecName(StrEnum):
    """The codecs that an index can be built with."""

    tartan = "tartan"
    colbertv2 = "colbertv2"


class OnErrorName(StrEnum):
    """What becomes of a passage that the model fails on."""

    fail = "fail"
    skip = "skip"


class LongDocumentsName(StrEnum):
    """What becomes of documents that are longer than a passage."""

    ERROR = "error"
    TRUNCATE = "truncate"
    SPLIT = "split"


CorpusFiles = Annotated[
    list[str],
    typer.Argument(
        metavar="CORPUS...",
        help="Files, folders, globs, or URIs of these (s3://, gs://): JSONL (`_id` or `id`, "
        "`text`, optional `title`; other fields are kept as metadata), TSV (`id<TAB>text`), "
        "Parquet; also gzipped.",
    ),
]
BuiltIndex = Annotated[
    str,
    typer.Option(
        "--out",
        metavar="INDEX",
        help="Where the index goes: a folder, or a URI (s3://, gs://).",
    ),
]
Model = Annotated[
    str, typer.Option("--model", help="Path, hub name, or alias of a ColBERT or any encoder.")
]
Bits = Annotated[int, typer.Option("--bits", help="Residual bits.")]
Codec = Annotated[
    CodecName, typer.Option("--codec", help="`tartan`, or `colbertv2` as in the paper.")
]
Shards = Annotated[
    int | None, typer.Option("--shards", help="By default as few as keep below 8 GiB.")
]
Dim = Annotated[
    int | None,
    typer.Option("--dim", help="Reduce by PCA; by default the model's choice."),
]
Centroids = Annotated[
    int | None, typer.Option("--centroids", help="By default 2^⌊log2(16·√tokens)⌋.")
]
DocMaxlen = Annotated[int | None, typer.Option("--doc-maxlen", help="Tokens kept of a passage.")]
PoolFactor = Annotated[
    int,
    typer.Option("--pool-factor", help="So many times fewer vectors: alike tokens merged."),
]
LongDocuments = Annotated[
    LongDocumentsName,
    typer.Option(
        "--long-documents",
        help="Of documents with more tokens than are kept of a passage: `truncate` counts and "
        "reports them, `error` stops at one, `split` indexes windows that overlap by a "
        "quarter; a hit is the document, and says which window it was.",
    ),
]
Language = Annotated[
    str | None,
    typer.Option(
        "--language",
        help="Of passages and queries, where the model has an adapter for each (ColBERT-XM): "
        "`de_DE`, or `de`.",
    ),
]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Exactly so many. See --max-workers.")
]
MinWorkers = Annotated[
    int | None,
    typer.Option("--min-workers", help="Ask an autoscaler for so many.  [default: 1]"),
]
MaxWorkers = Annotated[
    int | None,
    typer.Option(
        "--max-workers",
        help="Follow the cluster up to so many; by default one per GPU, else per CPU, as nodes "
        "join and leave, and for each 64 KiB of text.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="cuda asks for GPUs, also where an autoscaler must bring them first, and cpu for "
        "none; by default GPUs where there are some now.",
    ),
]
OnError = Annotated[
    OnErrorName,
    typer.Option(
        "--on-error",
        help="A passage that the model fails on is found and named: it ends the job (`fail`), "
        "or is left out (`skip`).",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Of the sample and centroids.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Publish a new generation where an index exists.")
]
Restart = Annotated[
    bool, typer.Option("--restart", help="Throw an unfinished build in INDEX away.")
]
Staging = Annotated[
    Path | None,
    typer.Option(
        "--staging",
        metavar="DIR",
        help="With a URI: where the index is built, seen by all workers; by default the cache.",
    ),
]
