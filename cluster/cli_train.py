"""`tartan train`: what each of its commands takes. Heavy imports stand inside the functions."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli_options import Json
from cluster.progress import progress_for

train_app = typer.Typer(no_args_is_help=True, help="Train a model for a corpus of your own.")

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


class LossName(StrEnum):
    """What is learnt from a tuple."""

    kl = "kl"
    v1 = "v1"


@train_app.command("distill")
def distill_command(
    tuples: Tuples,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where the run goes; all workers see it.")
    ],
    corpus: Corpus = None,
    queries: Queries = None,
    n_way: NWay = None,
    model: Annotated[
        str, typer.Option("--model", help="What to start from: path, hub name or alias.")
    ] = "minilm-untrained",
    loss: Annotated[
        LossName,
        typer.Option(
            "--loss", help="`kl`: from a teacher's scores; `v1`: the positive against each other."
        ),
    ] = LossName.kl,
    weight: Annotated[float, typer.Option("--weight", help="Of that loss.")] = 1.0,
    in_batch_weight: Annotated[
        float,
        typer.Option("--in-batch-weight", help="Of the cross-entropy among all of a batch."),
    ] = 1.0,
    min_max: Annotated[
        bool,
        typer.Option(
            "--min-max/--no-min-max",
            help="Bring the student's scores of a tuple to 0 … 1, as PyLate does.",
        ),
    ] = False,
    temperature: Annotated[
        float, typer.Option("--temperature", help="Of teacher and student alike.")
    ] = 1.0,
    steps: Annotated[int, typer.Option("--steps", help="0: one epoch.")] = 0,
    batch: Annotated[int, typer.Option("--batch", help="Tuples a step, over all workers.")] = 32,
    accumulate: Annotated[
        int, typer.Option("--accumulate", help="Cut a batch into so many; fewer negatives.")
    ] = 1,
    chunk: Annotated[
        int | None,
        typer.Option(
            "--chunk", help="Encode so many texts at a time (GradCache): same result, less memory."
        ),
    ] = None,
    rate: Annotated[float, typer.Option("--rate", help="Highest learning rate.")] = 1e-5,
    warmup: Annotated[int, typer.Option("--warmup", help="Steps; -1: a tenth of all.")] = -1,
    clip: Annotated[float, typer.Option("--clip", help="Largest norm of a gradient.")] = 1.0,
    lora: Annotated[
        int | None, typer.Option("--lora", help="Train low-rank additions of this rank only.")
    ] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Run the backbone in bfloat16.")] = False,
    dim: Annotated[int | None, typer.Option("--dim", help="Of vectors.  [default: 128]")] = None,
    markers: Annotated[
        bool | None, typer.Option("--markers/--no-markers", help="[unused0], [unused1].")
    ] = None,
    augment: Annotated[
        bool | None,
        typer.Option("--augment/--no-augment", help="Fill queries up with the mask token."),
    ] = None,
    query_maxlen: Annotated[
        int | None, typer.Option("--query-maxlen", help="Tokens.  [default: 32]")
    ] = None,
    doc_maxlen: Annotated[
        int | None, typer.Option("--doc-maxlen", help="Tokens.  [default: 180]")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="By default one for each GPU, or one.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    checkpoint_every: Annotated[int, typer.Option("--checkpoint-every", help="Steps.")] = 500,
    evaluate_every: Annotated[int, typer.Option("--evaluate-every", help="Steps.")] = 500,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Evaluate on this: a folder in BEIR's layout."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="qrels/<split>.tsv")] = "dev",
    max_failures: Annotated[
        int, typer.Option("--max-failures", help="How often lost workers are replaced.")
    ] = 3,
    as_json: Json = False,
) -> None:
    """Train a late-interaction student from tuples, on Ray Train.

    Starts a local Ray, or joins the cluster that RAY_ADDRESS names. Tuples, settings and the place
    are checked before anything is trained. Killed at any moment, the same command goes on from the
    last checkpoint; with other settings or data it begins anew.

    Example: `tartan train distill tuples.jsonl --corpus corpus.jsonl --queries queries.tsv
    --out run`
    """
    from cluster.train_job import TrainJob, train
    from colbert_core.train.starting import StudentSettings
    from colbert_core.train.step import Objective
    from colbert_core.train.trainer import TrainSettings

    job = TrainJob(
        tuples=tuple(tuples),
        corpus=corpus or None,
        queries=queries,
        n_way=n_way,
        model=model,
        student=StudentSettings(
            dim=dim,
            markers=markers,
            augment=augment,
            query_maxlen=query_maxlen,
            doc_maxlen=doc_maxlen,
        ),
        settings=TrainSettings(
            steps=steps,
            batch=batch,
            accumulate=accumulate,
            rate=rate,
            warmup=warmup,
            clip=clip,
            seed=seed,
            objective=Objective(
                loss=loss.value,
                weight=weight,
                in_batch_weight=in_batch_weight,
                min_max=min_max,
                temperature=temperature,
            ),
            lora=lora,
            bf16=bf16,
        ),
        workers=workers,
        chunk=chunk,
        checkpoint_every=checkpoint_every,
        evaluate_every=evaluate_every,
        data=data,
        split=split,
        max_failures=max_failures,
    )
    report = train(job, out, progress_for())
    if as_json:
        print(json.dumps(report.to_dict()))
        return
    print(f"{report.steps:,} steps, run {report.name}: {report.checkpoint}")
    for name, value in report.last.items():
        print(f"  {name} {report.first[name]:.4f} → {value:.4f}")
    print(f"next: tartan index build CORPUS --out INDEX --model {report.checkpoint}")
