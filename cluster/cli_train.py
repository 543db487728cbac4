"""`tartan train`: what each of its commands takes. Heavy imports stand inside the functions."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster import cli_train_tuples
from cluster.cli_options import Json
from cluster.cli_train_options import Corpus, NWay, Queries, Tuples
from cluster.progress import progress_for

if TYPE_CHECKING:
    from cluster.train_job import TrainJob

train_app = typer.Typer(no_args_is_help=True, help="Train a model for a corpus of your own.")

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
Seed = Annotated[int, typer.Option("--seed", help="Of the order of tuples.")]
CheckpointEvery = Annotated[int, typer.Option("--checkpoint-every", help="Steps.")]
MaxFailures = Annotated[
    int, typer.Option("--max-failures", help="How often lost workers are replaced.")
]


class LossName(StrEnum):
    """What is learnt from a tuple."""

    kl = "kl"
    v1 = "v1"


@train_app.command("teacher")
def teacher_command(
    tuples: Tuples,
    out: Out,
    corpus: Corpus = None,
    queries: Queries = None,
    n_way: NWay = None,
    model: Annotated[
        str, typer.Option("--model", help="Any encoder, or a cross-encoder to go on with.")
    ] = "minilm-untrained",
    steps: Steps = 0,
    batch: Batch = 16,
    accumulate: Annotated[
        int, typer.Option("--accumulate", help="Cut a batch into so many: less memory.")
    ] = 1,
    rate: Annotated[float, typer.Option("--rate", help="Highest learning rate.")] = 2e-5,
    warmup: Warmup = -1,
    bf16: Bf16 = False,
    workers: Workers = None,
    seed: Seed = 0,
    checkpoint_every: CheckpointEvery = 500,
    max_failures: MaxFailures = 3,
    as_json: Json = False,
) -> None:
    """Train a cross-encoder, the teacher, to tell the positive passage of a tuple from the others.

    Softmax cross-entropy over each tuple; scores in the tuples are not used. It runs, stops and
    goes on as `distill` does.

    Example: `tartan train teacher mined.jsonl --corpus corpus.jsonl --queries queries.tsv
    --out teacher`
    """
    from cluster.train_job import TrainJob
    from colbert_core.train.step import Objective
    from colbert_core.train.trainer import TrainSettings

    job = TrainJob(
        tuples=tuple(tuples),
        corpus=corpus or None,
        queries=queries,
        n_way=n_way,
        model=model,
        student=None,
        settings=TrainSettings(
            steps=steps,
            batch=batch,
            accumulate=accumulate,
            rate=rate,
            warmup=warmup,
            seed=seed,
            objective=Objective(loss="v1", in_batch_weight=0.0),
            bf16=bf16,
        ),
        workers=workers,
        chunk=None,
        checkpoint_every=checkpoint_every,
        evaluate_every=checkpoint_every,
        data=None,
        split="",
        max_failures=max_failures,
    )
    _train(job, out, as_json, "tartan train score TUPLES --out scored.jsonl --teacher")


@train_app.command("distill")
def distill_command(
    tuples: Tuples,
    out: Out,
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
    steps: Steps = 0,
    batch: Batch = 32,
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
    warmup: Warmup = -1,
    clip: Annotated[float, typer.Option("--clip", help="Largest norm of a gradient.")] = 1.0,
    lora: Annotated[
        int | None, typer.Option("--lora", help="Train low-rank additions of this rank only.")
    ] = None,
    bf16: Bf16 = False,
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
    workers: Workers = None,
    seed: Seed = 0,
    checkpoint_every: CheckpointEvery = 500,
    evaluate_every: Annotated[int, typer.Option("--evaluate-every", help="Steps.")] = 500,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Evaluate on this: a folder in BEIR's layout."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="qrels/<split>.tsv")] = "dev",
    max_failures: MaxFailures = 3,
    as_json: Json = False,
) -> None:
    """Train a late-interaction student from tuples, on Ray Train.

    Starts a local Ray, or joins the cluster that RAY_ADDRESS names. Tuples, settings and the place
    are checked before anything is trained. Killed at any moment, the same command goes on from the
    last checkpoint; with other settings or data it begins anew.

    Example: `tartan train distill tuples.jsonl --corpus corpus.jsonl --queries queries.tsv
    --out run`
    """
    from cluster.train_job import TrainJob
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
    _train(job, out, as_json, "tartan index build CORPUS --out INDEX --model")


def _train(job: TrainJob, out: Path, as_json: bool, following: str) -> None:
    from cluster.train_job import train

    report = train(job, out, progress_for())
    if as_json:
        print(json.dumps(report.to_dict()))
        return
    print(f"{report.steps:,} steps, run {report.name}: {report.checkpoint}")
    for name, value in report.last.items():
        print(f"  {name} {report.first[name]:.4f} → {value:.4f}")
    print(f"next: {following} {report.checkpoint}")


cli_train_tuples.register(train_app)
