"""The stages of an index job, in order. Each is given what those before it made, asks the ledger
what is done already, does the rest, and writes it into the ledger.

    read ─ start ─ sample ─ train ─ encode ─ write ─ calibrate ─ publish

Sample and train are in `job_codec.py`; a job that adds to an index under its codec leaves them out.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from typing import Any

from cluster.corpus_files import digest, seen
from cluster.corpus_units import StagedCorpus, read_plan, stage_corpus, write_plan
from cluster.job import Job, device_of
from cluster.ledger import (
    Calibrated,
    Compressed,
    ShardWritten,
    Staged,
    Started,
    generation_id,
)
from cluster.plan import (
    WorkerPlan,
    cut_shards,
    shard_count,
    unit_budget,
)
from cluster.ray_session import RaySession
from cluster.worker_pool import WorkerPool
from cluster.worker_run import Work
from colbert_core.codec import Codec, check_settings
from colbert_core.errors import CorpusError, IndexExists, InvalidInput
from colbert_core.index import (
    Manifest,
    Preset,
    ShardEntry,
    ShardReader,
    new_generation_id,
    publish,
)
from colbert_core.index.manifest import manifest_path
from colbert_core.search.calibrate import calibrate
from colbert_core.storage import Location
from colbert_core.text.identity import ModelIdentity
from colbert_core.text.projection import matrix_sha256
from colbert_core.types import F32
from workers.encoder import CodecRef, UnitResult
from workers.memory import release_freed_memory
from workers.shard_builder import BuiltShard, ShardTask


def read(job: Job, files: Sequence[Location]) -> StagedCorpus:
    """Check the corpus and cut it into units.

    Raises:
        CorpusError: it cannot be indexed, or it changed while it was read.
    """
    if job.done.staged is not None and job.staging.plan_path.exists():
        return read_plan(job.staging)
    job.staging.create()
    for left_over in job.place.staging.glob("ids-*.bin"):
        left_over.unlink()  # of the search for duplicates
    before = [seen(path) for path in files]
    budget = unit_budget(
        [(path.suffix.lower(), at.size_bytes) for path, at in zip(files, before, strict=True)]
    )
    with job.stage("read", None, "passages"):
        digests = tuple(digest(path) for path in files)
        corpus = stage_corpus(files, job.staging, budget, job.progress)
        for path, at in zip(files, before, strict=True):
            if seen(path) != at:
                raise CorpusError(
                    f"{path}: it changed while it was read; wait until it is written whole"
                )
        job.commit(Staged(write_plan(job.staging, corpus), digests))
    return corpus


def start(job: Job, plan: WorkerPlan, pool: WorkerPool) -> ModelIdentity:
    """Wait for the model; with it, all that decides the index is known, and its id is chosen.

    Raises:
        InvalidInput: the settings do not fit the model.
        IndexExists: an unfinished job had another model under this name, or another device.
    """
    identity = ModelIdentity.from_dict(pool.first_model().identity)
    check_dim(job, identity)
    device, before = device_of(plan), job.done.started
    if before is None:
        number = new_generation_id(job.place.index).split("-")[0]
        generation = generation_id(number, job.done, identity.to_dict(), device)
        job.commit(Started(identity.to_dict(), device, generation))
        return identity
    found = [] if before.device == device else [f"device was {before.device}, now {device}"]
    found += [
        f"the model's {name} was {value}, now {identity.to_dict().get(name)}"
        for name, value in before.identity.items()
        if identity.to_dict().get(name) != value
    ]
    if found:
        raise IndexExists(
            f"{job.place.index}: the unfinished build here cannot go on: {'; '.join(found)}. "
            "Restore that, or give --restart to throw it away and begin anew"
        )
    return identity


def check_staging(job: Job, session: RaySession) -> None:
    """Refuse several machines where only this one sees what is staged.

    Raises:
        InvalidInput: naming the folder.
    """
    if job.private_staging and session.node_count > 1:
        raise InvalidInput(
            f"{job.place.staging}: this is a folder of one machine, and Ray has "
            f"{session.node_count} nodes; give --staging a folder that all of them see"
        )


def check_dim(job: Job, identity: ModelIdentity) -> None:
    """Refuse dimensions that the model or the codec cannot give.

    Raises:
        InvalidInput: naming both.
    """
    settings = job.settings
    if settings.dim is not None and settings.dim > identity.dim:
        raise InvalidInput(
            f"dim is {settings.dim}, but the model {settings.model!r} gives vectors "
            f"of {identity.dim} dimensions; give {identity.dim} or less"
        )
    check_settings(name=settings.codec, bits=settings.bits, dim=settings.kept_dim(identity))


def encode(
    job: Job, corpus: StagedCorpus, codec: CodecRef, pool: WorkerPool
) -> tuple[UnitResult, ...]:
    """Compress every unit, encoding those that were not sampled."""
    known = job.done.compressed
    return job.over_units("encode", "compress", corpus.units, (codec,), pool, known, Compressed)


def write(
    job: Job, units: Sequence[UnitResult], codec: Codec, codec_ref: CodecRef, pool: WorkerPool
) -> list[ShardEntry]:
    """Cut the passages into shards and write them."""
    tokens = [result.tokens for result in units]
    count = shard_count(
        job.settings.shards,
        passages=sum(result.passages for result in units),
        tokens=sum(tokens),
        token_bytes=codec.token_bytes + 3,  # with the centroid code and the scale
    )
    plans = cut_shards([result.passages for result in units], tokens, count, job.staging.doclens)
    tasks = [
        ShardTask(f"{job.generation}-{number:04d}", plan.slices)
        for number, plan in enumerate(plans)
    ]
    remove_uncommitted(job)
    index = str(job.place.index)
    left = [number for number in range(count) if number not in job.done.shards]
    numbers = {task.shard_id: number for number, task in enumerate(tasks)}

    def done(_work: Work, built: BuiltShard) -> None:
        job.commit(ShardWritten(numbers[built.entry.id], built.entry, built.files))
        job.progress.advance(1, built.entry.tokens)

    with job.stage("write", len(left), "shards"):
        works = [
            Work(("shard", number), tasks[number], "build_shard", (index, tasks[number], codec_ref))
            for number in left
        ]
        pool.run(works, done)
    return [job.done.shards[number].entry for number in range(count)]


def remove_uncommitted(job: Job) -> None:
    """Remove shards of this generation that no ledger speaks of: of lost workers, or damaged."""
    committed = {shard.entry.id for shard in job.done.shards.values()}
    for path in (job.place.index / "shards").glob(f"*{job.generation}*"):
        if path.name not in committed:
            shutil.rmtree(path)


def calibrated(job: Job, codec: Codec, entries: Sequence[ShardEntry]) -> tuple[Preset, ...]:
    """Measure what each recall target takes on these shards."""
    if job.done.calibrated is None:
        with job.stage("calibrate", 1, "indexes"):
            release_freed_memory()
            shards = [ShardReader(job.place.index, entry, codec) for entry in entries]
            job.commit(Calibrated(calibrate(shards, codec, job.settings.seed)))
            job.progress.advance(1)
    assert job.done.calibrated is not None
    return job.done.calibrated.presets


def publish_index(
    job: Job,
    codec: Codec,
    projection: F32 | None,
    entries: Sequence[ShardEntry],
    presets: Sequence[Preset],
    identity: ModelIdentity,
    units: Sequence[UnitResult],
    corpus: StagedCorpus,
) -> Manifest:
    """Write the manifest, then `CURRENT`."""
    if projection is not None:
        identity = dataclasses.replace(
            identity, dim=codec.dim, projection_sha256=matrix_sha256(projection)
        )
    extras: dict[str, Any] = {
        "empty": corpus.empty,
        "seed": job.settings.seed,
        "long_documents": job.settings.long_documents,
    }
    if job.done.skipped_ids:
        extras["skipped"] = list(job.done.skipped_ids)
    with job.stage("publish", 1, "generations"):
        # Written by a job that was killed just before CURRENT named it.
        manifest_path(job.place.index, job.generation).unlink(missing_ok=True)
        manifest = publish(
            job.place.index,
            job.generation,
            job.generation,
            codec,
            entries,
            model=identity.to_dict(),
            truncated=sum(result.truncated for result in units),
            pool_factor=job.settings.pool_factor,
            presets=presets,
            extras=extras,
        )
        job.progress.advance(1)
    return manifest
