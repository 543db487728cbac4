"""`tartan train`: what each of its commands takes. Heavy imports stand inside the functions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster import cli_train_adapt, cli_train_generate, cli_train_tuples
from cluster.cli_options import Json
from cluster.cli_train_options import (
    Augment,
    Batch,
    BatchTeacher,
    Bf16,
    Blend,
    CheckpointEvery,
    Checkpoints,
    Chunk,
    Clip,
    Corpus,
    Dim,
    DocMaxlen,
    EvaluateEvery,
    FitProjection,
    FitTeacher,
    InBatchWeight,
    JudgedData,
    Language,
    Lora,
    Loss,
    LossName,
    Markers,
    MaxFailures,
    MinMax,
    MinWorkers,
    NWay,
    Out,
    PassageTokens,
    Queries,
    QueryMaxlen,
    Rate,
    Seed,
    Split,
    Steps,
    Temperature,
    Tuples,
    Warmup,
    WeighQueries,
    Weight,
    Workers,
)
from cluster.progress import progress_for
from colbert_core.text.aliases import UNTRAINED_MODEL

if TYPE_CHECKING:
    from cluster.train_job import TrainJob

train_app = typer.Typer(no_args_is_help=True, help="Train a model for a corpus of your own.")


@train_app.command("teacher")
def teacher_command(
    tuples: Tuples,
    out: Out,
    corpus: Corpus = None,
    queries: Queries = None,
    n_way: NWay = None,
    model: Annotated[
        str, typer.Option("--model", help="Any encoder, or a cross-encoder to go on with.")
    ] = UNTRAINED_MODEL,
    steps: Steps = 0,
    batch: Batch = 16,
    accumulate: Annotated[
        int, typer.Option("--accumulate", help="Cut a batch into so many: less memory.")
    ] = 1,
    rate: Rate = 2e-5,
    warmup: Warmup = -1,
    bf16: Bf16 = False,
    workers: Workers = None,
    min_workers: MinWorkers = None,
    checkpoints: Checkpoints = None,
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
        min_workers=min_workers,
        checkpoints=checkpoints,
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
    ] = UNTRAINED_MODEL,
    loss: Loss = LossName.kl,
    weight: Weight = 1.0,
    in_batch_weight: InBatchWeight = 1.0,
    batch_teacher: BatchTeacher = None,
    min_max: MinMax = False,
    temperature: Temperature = 1.0,
    steps: Steps = 0,
    batch: Batch = 32,
    accumulate: Annotated[
        int, typer.Option("--accumulate", help="Cut a batch into so many; fewer negatives.")
    ] = 1,
    chunk: Chunk = None,
    rate: Rate = 1e-5,
    warmup: Warmup = -1,
    clip: Clip = 1.0,
    lora: Lora = None,
    bf16: Bf16 = False,
    passage_tokens: PassageTokens = None,
    weigh_queries: WeighQueries = False,
    fit_projection: FitProjection = 0,
    fit_teacher: FitTeacher = None,
    blend: Blend = 1.0,
    dim: Dim = None,
    markers: Markers = None,
    augment: Augment = None,
    query_maxlen: QueryMaxlen = None,
    doc_maxlen: DocMaxlen = None,
    language: Language = None,
    workers: Workers = None,
    min_workers: MinWorkers = None,
    checkpoints: Checkpoints = None,
    seed: Seed = 0,
    checkpoint_every: CheckpointEvery = 500,
    evaluate_every: EvaluateEvery = 500,
    data: JudgedData = None,
    split: Split = "dev",
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
    from cluster.train_start import Beginning
    from colbert_core.train.starting import StudentSettings
    from colbert_core.train.step import Objective
    from colbert_core.train.teachers import resolved
    from colbert_core.train.trainer import TrainSettings

    student = StudentSettings(
        dim=dim,
        markers=markers,
        augment=augment,
        query_maxlen=query_maxlen,
        doc_maxlen=doc_maxlen,
        language=language,
    )
    objective = Objective(
        loss=loss.value,
        weight=weight,
        in_batch_weight=in_batch_weight,
        min_max=min_max,
        temperature=temperature,
        batch_teachers=tuple(map(resolved, batch_teacher or ())),
    )
    settings = TrainSettings(
        steps=steps,
        batch=batch,
        accumulate=accumulate,
        rate=rate,
        warmup=warmup,
        clip=clip,
        seed=seed,
        objective=objective,
        lora=lora,
        bf16=bf16,
        passage_tokens=passage_tokens,
    )
    job = TrainJob(
        tuples=tuple(tuples),
        corpus=corpus or None,
        queries=queries,
        n_way=n_way,
        model=model,
        student=student,
        settings=settings,
        workers=workers,
        min_workers=min_workers,
        checkpoints=checkpoints,
        beginning=Beginning(
            weigh_queries=weigh_queries,
            fit_steps=fit_projection,
            fit_teachers=tuple(map(resolved, fit_teacher or ())),
        ),
        chunk=chunk,
        blend=blend,
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


train_app.command("generate")(cli_train_generate.generate_command)
train_app.command("adapt")(cli_train_adapt.adapt_command)
cli_train_tuples.register(train_app)
