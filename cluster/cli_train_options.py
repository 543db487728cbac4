"""Options of `tartan train`: what several of its commands take, then what `distill` alone does."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Tuples = Annotated[
    list[str],
    typer.Argument(
        metavar="TUPLES...",
        help="JSON lines: [qid, [pid, score], …] as ColBERT has it, or PyLate's objects with "
        "query, documents and scores; the first passage is the positive one. Also compressed, or "
        "Parquet.",
    ),
]
Corpus = Annotated[
    list[str] | None,
    typer.Option("--corpus", metavar="CORPUS", help="Passages, where tuples name them by id."),
]
Queries = Annotated[
    str | None,
    typer.Option("--queries", metavar="FILE", help="Queries: JSONL (`_id`, `text`) or TSV."),
]
NWay = Annotated[
    int | None,
    typer.Option("--n-way", help="Passages used of each tuple, the first ones; by default all."),
]
Out = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Where the run goes; all workers see it.")
]
Steps = Annotated[int, typer.Option("--steps", help="0: one epoch.")]
Batch = Annotated[int, typer.Option("--batch", help="Tuples a step, over all workers.")]
Warmup = Annotated[int, typer.Option("--warmup", help="Steps; -1: a tenth of all.")]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Run the backbone in bfloat16.")]
Workers = Annotated[
    int | None, typer.Option("--workers", help="By default one for each GPU, or one.")
]
MinWorkers = Annotated[
    int | None,
    typer.Option("--min-workers", help="Go on with as few while nodes come and go (elastic)."),
]
Checkpoints = Annotated[
    str | None,
    typer.Option(
        "--checkpoints", metavar="URI", help="Where the run's checkpoints go.  [default: OUT/runs]"
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Of the order of tuples.")]
CheckpointEvery = Annotated[int, typer.Option("--checkpoint-every", help="Steps; or ten minutes.")]
MaxFailures = Annotated[
    int, typer.Option("--max-failures", help="How often lost workers are replaced.")
]
Rate = Annotated[float, typer.Option("--rate", help="Highest learning rate.")]


class LossName(StrEnum):
    """What is learnt from a tuple."""

    kl = "kl"
    v1 = "v1"


Loss = Annotated[
    LossName,
    typer.Option(
        "--loss", help="`kl`: from a teacher's scores; `v1`: the positive against each other."
    ),
]
Weight = Annotated[float, typer.Option("--weight", help="Of that loss.")]
InBatchWeight = Annotated[
    float, typer.Option("--in-batch-weight", help="Of the cross-entropy among all of a batch.")
]
BatchTeacher = Annotated[
    list[str] | None,
    typer.Option(
        "--batch-teacher",
        help="Whose distribution over all passages of a batch is learnt too, as `score --teacher`; "
        "may be given again. It runs along, which takes time.",
    ),
]
MinMax = Annotated[
    bool,
    typer.Option(
        "--min-max/--no-min-max",
        help="Bring the student's scores of a tuple to 0 … 1, as PyLate does.",
    ),
]
Temperature = Annotated[float, typer.Option("--temperature", help="Of teacher and student alike.")]
Chunk = Annotated[
    int | None,
    typer.Option(
        "--chunk", help="Encode so many texts at a time (GradCache): same result, less memory."
    ),
]
Clip = Annotated[float, typer.Option("--clip", help="Largest norm of a gradient.")]
Lora = Annotated[
    int | None, typer.Option("--lora", help="Train low-rank additions of this rank only.")
]
Dim = Annotated[int | None, typer.Option("--dim", help="Of vectors.  [default: 128]")]
Markers = Annotated[
    bool | None, typer.Option("--markers/--no-markers", help="[unused0], [unused1].")
]
Augment = Annotated[
    bool | None,
    typer.Option("--augment/--no-augment", help="Fill queries up with the mask token."),
]
QueryMaxlen = Annotated[int | None, typer.Option("--query-maxlen", help="Tokens.  [default: 32]")]
DocMaxlen = Annotated[int | None, typer.Option("--doc-maxlen", help="Tokens.  [default: 180]")]
Blend = Annotated[
    float,
    typer.Option(
        "--blend",
        help="Save weights that lie so far between the start, 0, and the end: less than 1 keeps "
        "more of what the start knew of other texts.",
    ),
]
WeighQueries = Annotated[
    bool,
    typer.Option(
        "--weigh-queries",
        help="Let tokens of a query count the more, the rarer they are in the passages. Only "
        "Tartan reads these weights.",
    ),
]
FitProjection = Annotated[
    int,
    typer.Option(
        "--fit-projection",
        metavar="STEPS",
        help="First learn the projection alone, for so many steps of --fit-teacher.",
    ),
]
FitTeacher = Annotated[
    list[str] | None,
    typer.Option(
        "--fit-teacher",
        help="Whose distribution over all passages of a batch --fit-projection learns, as "
        "`score --teacher`; may be given again.",
    ),
]
PassageTokens = Annotated[
    int | None,
    typer.Option("--passage-tokens", help="Learn from so many of a passage, to save time."),
]
Language = Annotated[
    str | None,
    typer.Option(
        "--language", help="Of the tuples, where the model has an adapter for each: `de_DE`, `de`."
    ),
]
EvaluateEvery = Annotated[int, typer.Option("--evaluate-every", help="Steps.")]
JudgedData = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Evaluate on this: a folder in BEIR's layout."),
]
Split = Annotated[str, typer.Option("--split", help="qrels/<split>.tsv")]
