"""The index job: a corpus becomes a sharded index on Ray. This file is the pipeline, top to bottom.

    read      driver: every passage once, checked, into unit files          corpus_units.py
    start     driver: Ray, and workers that load the model                  worker_pool.py
    sample    workers: random units are encoded, their vectors kept         workers/encoder.py
    train     workers and driver: projection (PCA), k-means, codec, once    workers_sample.py
    encode    workers: each unit is encoded, pooled, compressed, committed  workers/encoder.py
    write     workers: each shard from the chunks of its passages           workers/shard_builder.py
    calibrate driver: what recall targets take on these shards              colbert_core/search
    publish   driver: manifest, then CURRENT; from here on readers see it   colbert_core/index

The stages are in `job_stages.py`. What each of them commits goes into a ledger (`ledger.py`), so
that the same command goes on where a killed one stopped. Unit files, vectors and chunks lie in a
staging folder inside the index, which the driver and all workers must see. Which passages make a
unit or a shard, what is sampled, and every byte that is written depend on the corpus and the
settings alone, not on how many workers there are, which of them are lost, or how often the job was
killed. Until `publish` an index that was there before stays live, whatever happens.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from importlib.metadata import version
from pathlib import Path

import ray

from cluster import job_codec
from cluster import job_stages as stages
from cluster.build_report import BuildReport, make_report
from cluster.build_settings import BuildSettings, absolute_if_folder
from cluster.corpus_files import seen
from cluster.index_folder import building, check_place, progress_of
from cluster.job import Job, OnError
from cluster.ledger import Asked
from cluster.plan import check_workers, plan_workers, shard_count
from cluster.progress import Progress, SilentProgress
from cluster.ray_session import ray_session
from cluster.remote_build import build_to_bucket, request_of
from colbert_core.errors import IndexExists, InvalidInput
from colbert_core.index.manifest import VERSION, read_generation
from colbert_core.storage import Location, RemotePath, location
from colbert_core.text.aliases import DEFAULT_MODEL
from colbert_core.text.corpus import Corpus, corpus_files
from workers.encoder import CodecRef, SharedCodec

STEPS = 3
"""Counts the programs whose unfinished jobs cannot be gone on with: raise it with every change of
what lies in the staging folder, or of what bytes come out of the same input."""


def build_index(
    corpus: Corpus,
    out: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    bits: int = 2,
    codec: str = "tartan",
    shards: int | None = None,
    dim: int | None = None,
    centroids: int | None = None,
    seed: int = 0,
    doc_maxlen: int | None = None,
    pool_factor: int = 1,
    long_documents: str = "truncate",
    language: str | None = None,
    workers: int | None = None,
    min_workers: int | None = None,
    max_workers: int | None = None,
    device: str | None = None,
    on_error: OnError = "fail",
    overwrite: bool = False,
    restart: bool = False,
    staging: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Build an index of a corpus and make it live; or go on with a build that did not end.

    Uses the Ray of this process, the cluster at `RAY_ADDRESS`, or a Ray of its own, in this order.

    Args:
        corpus: a file, glob or folder, or a list of these (`colbert_core.text.corpus`).
        out: folder of the index, or a URI in a bucket (remote_build.py).
        model: path, hub name or alias.
        bits, codec, centroids: of the codec (`colbert_core.codec.train_codec`).
        shards: how many; by default as few as keep each below 8 GiB of vectors.
        dim: dimensions to keep by PCA; by default a ColBERT's own, and at most 192 of a plain
            encoder's.
        seed: of the sample and of the centroids.
        doc_maxlen: tokens of a passage; by default the checkpoint's own.
        pool_factor: keep a passage's tokens in so many times fewer vectors
            (`colbert_core.pooling`); 1 keeps each.
        long_documents: what becomes of those that are longer than a passage: "truncate", "error",
            or "split" into windows that overlap; hits are documents, by their best window.
        language: whose adapter reads passages, and queries, where the model has one for each.
        workers: processes that encode, exactly so many.
        min_workers, max_workers: bounds within which their number follows the cluster; by default
            one per GPU, else one per CPU, that the cluster has.
        device: "cuda" asks for GPUs, also where an autoscaler must bring them first, "cpu" for
            none; by default GPUs where the cluster has some now.
        on_error: "skip" leaves out passages that the model fails on, "fail" ends the job.
        overwrite: whether an index that is there becomes the parent of the new generation.
        restart: whether an unfinished build that is there is thrown away.
        staging: where an index for a bucket is built; by default in the cache. Every worker must
            see it.
        progress: where to report to.

    Raises:
        CorpusError, ModelError, InvalidInput: before anything is encoded.
        IndexExists: so is the place, or an unfinished build of something else is there.
        StorageError, Unavailable: a bucket refuses, or does not answer.
        JobFailed: a unit of work failed for good. Nothing was published; what is done is kept.
        Unavailable: Ray, or workers on it, cannot be had.
    """
    settings = BuildSettings(
        absolute_if_folder(model),
        bits,
        codec,
        shards,
        dim,
        centroids,
        seed,
        doc_maxlen,
        pool_factor,
        long_documents,
        language,
    )
    settings.check()
    check_workers(workers, min_workers, max_workers)
    _check_choices(on_error, device)
    place = location(out)
    if isinstance(place, Path):
        _check_folder(place, overwrite, staging)
    files = corpus_files(corpus)
    bounds = (workers, min_workers, max_workers)
    private_staging = isinstance(place, RemotePath) and staging is None

    def build(folder: Path, overwrite: bool = False) -> BuildReport:
        asked, note = asked_for(settings, files), report.note
        with building(folder, asked, overwrite=overwrite, restart=restart, note=note) as here:
            job = Job(settings, here, report, on_error, private_staging)
            return _run(job, files, bounds, device)

    with closing(progress or SilentProgress()) as report:
        if isinstance(place, Path):
            return build(place, overwrite)
        return build_to_bucket(
            place,
            request_of(files, settings),
            build,
            overwrite=overwrite,
            restart=restart,
            staging=staging,
            progress=report,
        )


def _check_choices(on_error: str, device: str | None) -> None:
    if on_error not in ("skip", "fail"):
        raise InvalidInput(f"on_error is {on_error!r}; give 'skip' or 'fail'")
    if device not in (None, "cpu", "cuda"):
        raise InvalidInput(f"device is {device!r}; give cpu or cuda (Ray says which GPU is whose)")


def _check_folder(place: Path, overwrite: bool, staging: str | os.PathLike[str] | None) -> None:
    check_place(place.expanduser().absolute(), overwrite=overwrite)
    if staging is not None:
        raise InvalidInput(
            f"staging is {staging}, and {place} is a folder, which stages in itself; leave "
            "--staging out, or give a URI"
        )


def _run(
    job: Job,
    files: Sequence[Location],
    workers: tuple[int | None, int | None, int | None],
    device: str | None,
) -> BuildReport:
    began = time.monotonic()
    if job.place.published is not None:  # only the tidying up was left
        return _report(job, 0, began)
    _go_on(job, asked_for(job.settings, files))
    corpus = stages.read(job, files)
    if job.settings.shards is not None:
        shard_count(job.settings.shards, passages=corpus.passages, tokens=0, token_bytes=0)
    with ExitStack() as stack:
        with job.stage("start", None, "models"):
            session = stack.enter_context(ray_session(purpose="index build"))
            stages.check_staging(job, session)
            plan = plan_workers(
                *workers,
                text_bytes=corpus.text_bytes,
                cpus=session.cpus,
                gpus=session.gpus,
                device=device,
            )
            pool = stack.enter_context(job.pool(plan))
            identity = stages.start(job, plan, pool)
            job.progress.advance(1)
        codec, projection = job_codec.trained_codec(
            job,
            lambda: job_codec.train(
                job, corpus, identity, job_codec.sample(job, corpus, identity, pool), pool
            ),
        )
        shared = SharedCodec(codec, projection, job.settings.pool_factor)
        codec_ref = CodecRef(ray.put(shared))
        units = stages.encode(job, corpus, codec_ref, pool)
        entries = stages.write(job, units, codec, codec_ref, pool)
        worker_count = pool.workers
    presets = stages.calibrated(job, codec, entries)
    stages.publish_index(job, codec, projection, entries, presets, identity, units, corpus)
    return _report(job, worker_count, began)


def asked_for(settings: BuildSettings, files: Sequence[Location]) -> Asked:
    """All that decides the bytes of an index, as a ledger remembers it."""
    return Asked(
        {"job": "build", **dataclasses.asdict(settings)},
        {
            "tartan": version("tartan-search"),
            "index format": VERSION,
            "build steps": STEPS,
            "torch": version("torch"),
            "transformers": version("transformers"),
        },
        tuple(seen(path) for path in files),
    )


def _go_on(job: Job, asked: Asked) -> None:
    """Open the ledger; of an unfinished job, only what is still whole counts.

    Raises:
        IndexExists: passages were left out before, and may not be now.
    """
    ledger = job.place.ledger
    if job.place.resumed:
        skipped = ledger.done.skipped_ids
        if skipped and job.on_error == "fail":
            raise IndexExists(
                f"{job.place.index}: the unfinished build here has left out {len(skipped)} of "
                f"its passages ({skipped[0]!r} is the first), which --on-error fail forbids; go on "
                "with --on-error skip, or give --restart to begin anew"
            )
        job.progress.note(f"going on with an unfinished build: {progress_of(ledger.done)}")
        for path in ledger.forget_damaged():
            job.progress.note(f"{path} is missing or damaged; it is made again")
    ledger.begin(asked)


def _report(job: Job, workers: int, began: float) -> BuildReport:
    manifest = read_generation(job.place.index, job.generation)
    job.seconds["total"] = time.monotonic() - began
    return make_report(
        manifest,
        index=str(job.place.index),
        model=job.settings.model,
        empty=int(manifest.extras["empty"]),
        skipped=tuple(manifest.extras.get("skipped", ())),
        workers=workers,
        seconds=job.seconds,
    )
