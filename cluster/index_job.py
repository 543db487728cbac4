"""The index job: a corpus becomes a sharded index on Ray. This file is the pipeline, top to bottom.

    read      driver: every passage once, checked, into unit files          corpus_units.py
    start     driver: Ray, and workers that load the model                  worker_pool.py
    sample    workers: random units are encoded, their vectors kept         workers/encoder.py
    train     driver: projection (PCA), centroids and codec, once           colbert_core/codec
    encode    workers: each unit is encoded, pooled, compressed, committed  workers/encoder.py
    write     workers: each shard from the chunks of its passages           workers/shard_builder.py
    calibrate driver: what recall targets take on these shards              colbert_core/search
    publish   driver: manifest, then CURRENT; from here on readers see it   colbert_core/index

Unit files, vectors and chunks lie in a staging folder inside the index, which the driver and all
workers must see. Which passages make a unit or a shard, what is sampled, and every byte that is
written depend on the corpus and the settings alone, not on how many workers there are or which of
them are lost. Until `publish` an index that was there before stays live, whatever happens.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import ray

from cluster.build_report import BuildReport, make_report
from cluster.build_settings import BuildSettings, absolute_if_folder
from cluster.codec_sample import KeptVectors, fit_projection
from cluster.corpus_units import StagedCorpus, stage_corpus
from cluster.index_folder import BuildPlace, building, check_place
from cluster.plan import (
    choose_sample,
    cut_shards,
    estimate_tokens,
    plan_workers,
    shard_count,
    unit_budget,
)
from cluster.progress import Progress, SilentProgress
from cluster.ray_session import RaySession, ray_session
from cluster.remote_build import build_to_bucket, request_of
from cluster.worker_pool import Work, WorkerPool
from colbert_core.codec import Codec, check_settings, train_codec
from colbert_core.errors import InvalidInput
from colbert_core.index import Manifest, Preset, ShardEntry, ShardReader, publish, write_codec
from colbert_core.search.calibrate import calibrate
from colbert_core.storage import Location, RemotePath, location
from colbert_core.text.aliases import DEFAULT_MODEL
from colbert_core.text.corpus import Corpus, corpus_files
from colbert_core.text.identity import ModelIdentity
from colbert_core.text.projection import matrix_sha256
from colbert_core.types import F32
from workers.encoder import CodecRef, SharedCodec, UnitResult, WorkerSettings
from workers.shard_builder import ShardTask
from workers.units import Staging, Unit

SAMPLE_BYTES = 2 * 2**30  # most that the sample of a very large corpus may take in the driver


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
    workers: int | None = None,
    overwrite: bool = False,
    staging: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Build an index of a corpus and make it live.

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
        workers: processes that encode; by default one per GPU, else one per CPU.
        overwrite: whether an index that is there becomes the parent of the new generation.
        staging: where an index for a bucket is built; by default in the cache. Every worker must
            see it.
        progress: where to report to.

    Raises:
        CorpusError, ModelError, IndexExists, InvalidInput: before anything is encoded.
        StorageError, Unavailable: a bucket refuses, or does not answer.
        JobFailed: a unit of work failed for good. Nothing was published.
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
    )
    settings.check()
    place = location(out)
    if isinstance(place, Path):
        check_place(place.expanduser().absolute(), overwrite=overwrite)
        if staging is not None:
            raise InvalidInput(
                f"staging is {staging}, and {place} is a folder, which stages in itself; leave "
                "--staging out, or give a URI"
            )
    files = corpus_files(corpus)
    report = progress or SilentProgress()
    private_staging = isinstance(place, RemotePath) and staging is None

    def build(folder: Path, overwrite: bool = False) -> BuildReport:
        with building(folder, overwrite=overwrite) as place:
            return _Job(settings, place, report, private_staging).run(files, workers)

    try:
        if isinstance(place, Path):
            return build(place, overwrite)
        return build_to_bucket(
            place,
            request_of(files, settings),
            build,
            overwrite=overwrite,
            staging=staging,
            progress=report,
        )
    finally:
        report.close()


@dataclass
class _Job:
    """One run of the pipeline: what its stages hand on."""

    settings: BuildSettings
    place: BuildPlace
    progress: Progress
    private_staging: bool = False  # in this machine's cache, which other nodes do not see
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def staging(self) -> Staging:
        return Staging(self.place.staging)

    def run(self, files: Sequence[Location], workers: int | None) -> BuildReport:
        began = time.monotonic()
        corpus = self.read(files)
        if self.settings.shards is not None:
            shard_count(self.settings.shards, passages=corpus.passages, tokens=0, token_bytes=0)
        with ExitStack() as stack:
            with self.stage("start", None, "models"):
                session = stack.enter_context(ray_session(purpose="index build"))
                self.check_staging(session)
                pool = stack.enter_context(self.pool(session, workers))
                identity = ModelIdentity.from_dict(pool.first_model().identity)
                self.progress.advance(1)
            self.check_dim(identity)
            sample = self.sample(corpus, identity, pool)
            codec, projection = self.train(corpus, identity, sample)
            shared = SharedCodec(codec, projection, self.settings.pool_factor)
            codec_ref = CodecRef(ray.put(shared))
            units = self.encode(corpus, codec_ref, pool)
            entries = self.write(corpus, units, codec, codec_ref, pool)
            worker_count = pool.workers
        presets = self.calibrate(codec, entries)
        if projection is not None:
            identity = dataclasses.replace(
                identity, dim=codec.dim, projection_sha256=matrix_sha256(projection)
            )
        manifest = self.publish(codec, projection, entries, presets, identity, units, corpus)
        self.seconds["total"] = time.monotonic() - began
        return make_report(
            manifest,
            index=str(self.place.index),
            model=self.settings.model,
            empty=corpus.empty,
            workers=worker_count,
            seconds=self.seconds,
        )

    def read(self, files: Sequence[Location]) -> StagedCorpus:
        """Check the corpus and cut it into units."""
        self.staging.create()
        budget = unit_budget([(path.suffix.lower(), path.stat().st_size) for path in files])
        with self.stage("read", None, "passages"):
            return stage_corpus(files, self.staging, budget, self.progress)

    def pool(self, session: RaySession, workers: int | None) -> WorkerPool:
        plan = plan_workers(workers, cpus=session.cpus, gpus=session.gpus)
        settings = WorkerSettings(
            staging=str(self.place.staging),
            model=self.settings.model,
            doc_maxlen=self.settings.doc_maxlen,
            device="cuda" if plan.gpus else "cpu",
            threads=plan.threads,
        )
        return WorkerPool(plan, settings, self.progress.note)

    def check_staging(self, session: RaySession) -> None:
        if self.private_staging and session.node_count > 1:
            raise InvalidInput(
                f"{self.place.staging}: this is a folder of one machine, and Ray has "
                f"{session.node_count} nodes; give --staging a folder that all of them see"
            )

    def check_dim(self, identity: ModelIdentity) -> None:
        if self.settings.dim is not None and self.settings.dim > identity.dim:
            raise InvalidInput(
                f"dim is {self.settings.dim}, but the model {self.settings.model!r} gives vectors "
                f"of {identity.dim} dimensions; give {identity.dim} or less"
            )
        check_settings(
            name=self.settings.codec,
            bits=self.settings.bits,
            dim=self.settings.kept_dim(identity),
        )

    def sample(
        self, corpus: StagedCorpus, identity: ModelIdentity, pool: WorkerPool
    ) -> tuple[UnitResult, ...]:
        """Encode the units that the codec is trained on."""
        # Torch: imported once there is a corpus and a model to use it for.
        from colbert_core.codec.kmeans import SAMPLE_PER_CENTROID, default_centroids

        estimates = [estimate_tokens(unit, identity.doc_maxlen) for unit in corpus.units]
        stored = max(1, sum(estimates) // self.settings.pool_factor)
        centroids = self.settings.centroids or default_centroids(stored)
        dim = self.settings.kept_dim(identity)
        target = min(centroids * SAMPLE_PER_CENTROID, SAMPLE_BYTES // dim)
        chosen = [
            corpus.units[index] for index in choose_sample(estimates, target, self.settings.seed)
        ]
        return self.over_units("sample", "embed", chosen, (), pool)

    def train(
        self, corpus: StagedCorpus, identity: ModelIdentity, sample: Sequence[UnitResult]
    ) -> tuple[Codec, F32 | None]:
        """Fit the projection and train the codec, on the vectors that were kept."""
        from colbert_core.codec.kmeans import ITERATIONS

        tokens = sum(result.tokens for result in sample)
        sampled_bytes = sum(corpus.units[result.unit].text_bytes for result in sample)
        total_tokens = round(tokens * corpus.text_bytes / max(1, sampled_bytes))
        kept = KeptVectors(self.staging, tuple(result.unit for result in sample), tokens)
        settings = self.settings
        with self.stage("train", ITERATIONS, "iterations"):
            projection = fit_projection(kept, settings.kept_dim(identity), settings.seed)
            codec = train_codec(
                kept.projected(projection),
                name=settings.codec,
                bits=settings.bits,
                centroids=settings.centroids,
                total_tokens=max(1, max(total_tokens, tokens) // settings.pool_factor),
                seed=settings.seed,
                on_iteration=lambda _done, _of: self.progress.advance(1),
            )
        return codec, projection

    def encode(
        self, corpus: StagedCorpus, codec: CodecRef, pool: WorkerPool
    ) -> tuple[UnitResult, ...]:
        """Compress every unit, encoding those that were not sampled."""
        return self.over_units("encode", "compress", corpus.units, (codec,), pool)

    def over_units(
        self,
        stage: str,
        method: str,
        units: Sequence[Unit],
        extra: tuple[CodecRef, ...],
        pool: WorkerPool,
    ) -> tuple[UnitResult, ...]:
        """Call a method of the workers on units; the results in the order of the corpus."""
        results: dict[int, UnitResult] = {}

        def done(_work: Work, result: UnitResult) -> None:
            results[result.unit] = result
            self.progress.advance(result.passages, result.tokens)

        works = [Work((method, unit.index), unit, method, (unit, *extra)) for unit in units]
        with self.stage(stage, sum(unit.passages for unit in units), "passages"):
            pool.run(works, done)
        return tuple(results[index] for index in sorted(results))

    def write(
        self,
        corpus: StagedCorpus,
        units: Sequence[UnitResult],
        codec: Codec,
        codec_ref: CodecRef,
        pool: WorkerPool,
    ) -> list[ShardEntry]:
        """Cut the passages into shards and write them."""
        tokens = [result.tokens for result in units]
        count = shard_count(
            self.settings.shards,
            passages=corpus.passages,
            tokens=sum(tokens),
            token_bytes=codec.token_bytes + 3,  # with the centroid code and the scale
        )
        plans = cut_shards(
            [unit.passages for unit in corpus.units], tokens, count, self.staging.doclens
        )
        tasks = [
            ShardTask(f"{self.place.generation}-{number:04d}", plan.slices)
            for number, plan in enumerate(plans)
        ]
        entries: dict[str, ShardEntry] = {}

        def done(_work: Work, entry: ShardEntry) -> None:
            entries[entry.id] = entry
            self.progress.advance(1, entry.tokens)

        index = str(self.place.index)
        with self.stage("write", len(tasks), "shards"):
            write_works = [
                Work(("shard", number), task, "build_shard", (index, task, codec_ref))
                for number, task in enumerate(tasks)
            ]
            pool.run(write_works, done)
        return [entries[task.shard_id] for task in tasks]

    def calibrate(self, codec: Codec, entries: Sequence[ShardEntry]) -> tuple[Preset, ...]:
        """Measure what each recall target takes on these shards."""
        with self.stage("calibrate", 1, "indexes"):
            shards = [ShardReader(self.place.index, entry, codec) for entry in entries]
            presets = calibrate(shards, codec, self.settings.seed)
            self.progress.advance(1)
        return presets

    def publish(
        self,
        codec: Codec,
        projection: F32 | None,
        entries: Sequence[ShardEntry],
        presets: Sequence[Preset],
        identity: ModelIdentity,
        units: Sequence[UnitResult],
        corpus: StagedCorpus,
    ) -> Manifest:
        """Write what is global, then the manifest, then `CURRENT`."""
        place = self.place
        with self.stage("publish", 1, "generations"):
            write_codec(place.index, place.generation, codec, projection)
            manifest = publish(
                place.index,
                place.generation,
                place.generation,
                codec,
                entries,
                model=identity.to_dict(),
                truncated=sum(result.truncated for result in units),
                pool_factor=self.settings.pool_factor,
                presets=presets,
                extras={"empty": corpus.empty, "seed": self.settings.seed},
            )
            self.progress.advance(1)
        return manifest

    @contextmanager
    def stage(self, name: str, total: int | None, noun: str) -> Iterator[None]:
        """Time a stage and show it."""
        began = time.monotonic()
        self.progress.start(name, total, noun)
        yield
        self.progress.finish()
        self.seconds[name] = time.monotonic() - began
