"""`tartan train adapt`: from a corpus without queries to a model for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli_options import Json
from cluster.cli_train_generate import (
    Endpoint,
    EndpointModel,
    Examples,
    FilterBm25,
    FilterIndex,
    MaxTokens,
    Passages,
    SampleSize,
    Stemmer,
    Temperature,
    Templates,
    Top,
    WriterModel,
    make_settings,
    make_writer,
)
from cluster.cli_train_options import (
    Augment,
    Bf16,
    Blend,
    CheckpointEvery,
    Chunk,
    Dim,
    DocMaxlen,
    EvaluateEvery,
    JudgedData,
    Language,
    Lora,
    Markers,
    MaxFailures,
    QueryMaxlen,
    Split,
    WeighQueries,
    Workers,
)
from cluster.cli_train_tuples import parse_ranks
from cluster.progress import progress_for
from colbert_core.errors import InvalidInput
from colbert_core.text.aliases import DEFAULT_MODEL, UNTRAINED_MODEL


def adapt_command(
    corpus: Passages,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="All workers see it.")],
    writer: WriterModel = None,
    endpoint: Endpoint = None,
    endpoint_model: EndpointModel = None,
    template: Templates = None,
    examples: Examples = None,
    passages: SampleSize = 1000,
    more: Annotated[
        int,
        typer.Option(
            "--more",
            help="So many passages get a second round of queries, for the student alone, with the "
            "first round's as examples.",
        ),
    ] = 0,
    top: Top = 20,
    index: FilterIndex = None,
    bm25: FilterBm25 = None,
    stemmer: Stemmer = "english",
    temperature: Temperature = 0.7,
    max_tokens: MaxTokens = 48,
    prompts: Annotated[int, typer.Option("--prompts", help="As `generate --batch`.")] = 8,
    n_way: Annotated[int, typer.Option("--n-way", help="Passages of a tuple.")] = 16,
    ranks: Annotated[
        str, typer.Option("--ranks", metavar="FIRST:LAST", help="Where negatives are drawn from.")
    ] = "5:100",
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            "--teacher",
            help="Judges the tuples, as `score --teacher`, and no cross-encoder is trained; may be "
            "given again.",
        ),
    ] = None,
    teacher_model: Annotated[
        str, typer.Option("--teacher-model", help="What each cross-encoder starts from.")
    ] = UNTRAINED_MODEL,
    teacher_steps: Annotated[int, typer.Option("--teacher-steps", help="0: one epoch.")] = 0,
    teacher_batch: Annotated[int, typer.Option("--teacher-batch", help="Tuples a step.")] = 16,
    teacher_rate: Annotated[
        float, typer.Option("--teacher-rate", help="Highest learning rate.")
    ] = 2e-5,
    model: Annotated[
        str, typer.Option("--model", help="What the student starts from.")
    ] = DEFAULT_MODEL,
    steps: Annotated[int, typer.Option("--steps", help="Of the student; 0: one epoch.")] = 0,
    batch: Annotated[int, typer.Option("--batch", help="The student's tuples a step.")] = 32,
    rate: Annotated[float, typer.Option("--rate", help="The student's.")] = 1e-5,
    lora: Lora = None,
    weigh_queries: WeighQueries = False,
    blend: Blend = 1.0,
    bf16: Bf16 = False,
    chunk: Chunk = None,
    dim: Dim = None,
    markers: Markers = None,
    augment: Augment = None,
    query_maxlen: QueryMaxlen = None,
    doc_maxlen: DocMaxlen = None,
    language: Language = None,
    workers: Workers = None,
    seed: Annotated[int, typer.Option("--seed", help="Of every step.")] = 0,
    checkpoint_every: CheckpointEvery = 500,
    evaluate_every: EvaluateEvery = 500,
    data: JudgedData = None,
    split: Split = "dev",
    max_failures: MaxFailures = 3,
    as_json: Json = False,
) -> None:
    """Adapt a model to a corpus that has no queries (UDAPDR).

    A language model writes a query set for each template; each set, filtered and mined, trains a
    cross-encoder of its own; all of them score all tuples, and one student is distilled from the
    averages; with --teacher, models that are there score instead. Killed at any moment, the same
    command goes on where it stopped. Settings of a step that is done may not change.

    Example: `tartan train adapt corpus.jsonl --writer MODEL --examples few.jsonl --out adapted`
    """
    from cluster.train_adapting import AdaptJob, adapt
    from colbert_core.train.mining import MiningSettings
    from colbert_core.train.starting import StudentSettings
    from colbert_core.train.step import Objective
    from colbert_core.train.teachers import resolved
    from colbert_core.train.templates import TEMPLATES, find_templates, read_examples
    from colbert_core.train.trainer import TrainSettings

    if teacher and (teacher_model != UNTRAINED_MODEL or teacher_steps):
        raise InvalidInput(
            "--teacher with --teacher-model or --teacher-steps: with --teacher no cross-encoder is "
            "trained; leave one of them out"
        )
    shown = read_examples(examples) if examples else []
    templates = find_templates(template or list(TEMPLATES), shown)
    first, last = parse_ranks(ranks)
    mining = MiningSettings(n_way=n_way, first=first, last=last, seed=seed)
    mining.check()
    generating = make_settings(passages, top, index, bm25, stemmer, seed)
    cross_encoder = TrainSettings(
        steps=teacher_steps,
        batch=teacher_batch,
        rate=teacher_rate,
        warmup=-1,
        seed=seed,
        objective=Objective(loss="v1", in_batch_weight=0.0),
        bf16=bf16,
    )
    student = StudentSettings(
        dim=dim,
        markers=markers,
        augment=augment,
        query_maxlen=query_maxlen,
        doc_maxlen=doc_maxlen,
        language=language,
    )
    job = AdaptJob(
        corpus=corpus,
        writer=make_writer(writer, endpoint, endpoint_model, temperature, max_tokens, prompts),
        templates=templates,
        generating=generating,
        more=more,
        mining=mining,
        teachers=tuple(map(resolved, teacher or ())),
        teacher_model=teacher_model,
        teacher=cross_encoder,
        model=model,
        student=student,
        distilling=TrainSettings(
            steps=steps, batch=batch, rate=rate, warmup=-1, seed=seed, lora=lora, bf16=bf16
        ),
        weigh_queries=weigh_queries,
        blend=blend,
        workers=workers,
        chunk=chunk,
        checkpoint_every=checkpoint_every,
        evaluate_every=evaluate_every,
        max_failures=max_failures,
        data=data,
        split=split,
    )
    report = adapt(job, out, progress_for())
    if as_json:
        print(json.dumps(report.to_dict()))
        return
    for one in report.sets:
        print(f"{one.name}: {one.kept:,} queries kept of {one.written:,} answers")
    for name, value in report.last.items():
        print(f"  {name} {report.first[name]:.4f} → {value:.4f}")
    print(f"next: tartan index build {corpus[0]} --out INDEX --model {report.checkpoint}")
