"""The add job: a corpus becomes delta shards of an index, by the stages of the index job.

    read      driver: every passage once, checked; are its ids free?        corpus_units.py
    start     driver: Ray, and workers that load the index's own model      worker_pool.py
    encode    workers: each unit is encoded, pooled, compressed             workers/encoder.py
    write     workers: the delta shards                                     workers/shard_builder.py
    publish   driver: tombstones for what is replaced, manifest, `CURRENT`  colbert_core/change.py

There is nothing to train: codec, projection and pooling are the index's.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from cluster.build_settings import BuildSettings, absolute_if_folder
from cluster.corpus_units import StagedCorpus
from cluster.index_folder import STAGING, BuildPlace
from cluster.index_job import Job
from cluster.progress import Progress, SilentProgress
from cluster.ray_session import ray_session
from colbert_core.change import Change, changing, find_present, publish_added
from colbert_core.drift import drift
from colbert_core.errors import QueryError
from colbert_core.index import Generation, Manifest
from colbert_core.text.corpus import Corpus, corpus_files
from colbert_core.text.identity import ModelIdentity
from colbert_core.types import I64
from workers.encoder import CodecRef, SharedCodec


@dataclass(frozen=True, slots=True)
class AddReport:
    """What was added.

    Attributes:
        index, generation: where, and what is live now.
        added, replaced: passages that came, and how many of them took the place of others.
        passages: that can be found now.
        tokens: that came.
        truncated, empty: of the added passages, those cut to the model's length, and without text.
        drift: residuals of all that was added over the base's (`colbert_core.drift`).
        seconds: of each stage, and `total`.
    """

    index: str
    generation: str
    added: int
    replaced: int
    passages: int
    tokens: int
    truncated: int
    empty: int
    drift: float | None
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


def add_to_index(
    corpus: Corpus,
    index: str | os.PathLike[str],
    *,
    replace: bool = False,
    model: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> AddReport:
    """Encode a corpus with an index's own model, and publish it as part of the index.

    Args:
        corpus: a file, glob or folder, or a list of these.
        index: folder of the index.
        replace: whether passages of the same ids are replaced.
        model: where the index's model is now; by default where it was when the index was built.
        workers: processes that encode; by default one per GPU, else one per CPU.
        progress: where to report to.

    Raises:
        CorpusError: a passage cannot be indexed, or its id is in the index. Nothing was encoded.
        QueryError: the index was built from vectors and knows no model.
        ModelMismatch, ModelError: the model is another, or cannot be loaded.
        IndexMissing, IndexExists: there is no index, or another writer is at work in it.
        JobFailed: a unit of work failed for good. Nothing was published.
    """
    files = corpus_files(corpus)
    report = progress or SilentProgress()
    try:
        with changing(Path(index).expanduser().absolute()) as change, _staging(change) as place:
            settings = _settings(change.live, model)
            return _AddJob(settings, place, report, change=change).add(files, replace, workers)
    finally:
        report.close()


@contextmanager
def _staging(change: Change) -> Iterator[BuildPlace]:
    folder = change.index / STAGING
    shutil.rmtree(folder, ignore_errors=True)  # of jobs that were killed: the lock is ours
    place = BuildPlace(change.index, change.generation, folder / change.generation)
    place.staging.mkdir(parents=True)
    try:
        yield place
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _settings(live: Generation, model: str | os.PathLike[str] | None) -> BuildSettings:
    """The index's own."""
    if live.model is None:
        raise QueryError(
            f"{live.path}: this index was built from vectors and knows no model: add vectors with "
            "`Index.add` from Python"
        )
    identity = ModelIdentity.from_dict(live.model)
    return BuildSettings(
        model=absolute_if_folder(model or identity.source),
        bits=live.codec.bits,
        codec=live.codec.name,
        dim=live.codec.dim,
        centroids=live.codec.centroid_count,
        doc_maxlen=identity.doc_maxlen,
        pool_factor=live.manifest.pool_factor,
    )


@dataclass
class _AddJob(Job):
    """One run: what the stages hand on."""

    change: Change | None = None

    def add(self, files: Sequence[Path], replace: bool, workers: int | None) -> AddReport:
        assert self.change is not None
        began = time.monotonic()
        live = self.change.live
        corpus = self.read(files)
        present = self.present(corpus, replace)
        with ExitStack() as stack:
            with self.stage("start", None, "models"):
                session = stack.enter_context(ray_session(purpose="index add"))
                pool = stack.enter_context(self.pool(session, workers))
                _check_model(live, ModelIdentity.from_dict(pool.first_model().identity))
                self.progress.advance(1)
            shared = SharedCodec(live.codec, live.projection, self.settings.pool_factor)
            codec_ref = CodecRef(ray.put(shared))
            units = self.encode(corpus, codec_ref, pool)
            entries = self.write(corpus, units, live.codec, codec_ref, pool)
        truncated = sum(result.truncated for result in units)
        with self.stage("publish", 1, "generations"):
            manifest = publish_added(self.change, entries, present, truncated)
            self.progress.advance(1)
        self.seconds["total"] = time.monotonic() - began
        return self.report(manifest, corpus, present, truncated, sum(u.tokens for u in units))

    def present(self, corpus: StagedCorpus, replace: bool) -> list[tuple[I64, I64]]:
        """Where ids of the corpus are in the index already: places in the corpus, and passages.

        Raises:
            CorpusError: some are, and they are not to be replaced.
        """
        assert self.change is not None
        ids = [one for unit in corpus.units for one in self.staging.passages(unit.index).ids]
        return find_present(self.change.live, ids, replace=replace)

    def report(
        self,
        manifest: Manifest,
        corpus: StagedCorpus,
        present: Sequence[tuple[I64, I64]],
        truncated: int,
        tokens: int,
    ) -> AddReport:
        return AddReport(
            index=str(self.place.index),
            generation=manifest.generation,
            added=corpus.passages,
            replaced=sum(len(places_F) for places_F, _ in present),
            passages=manifest.passages,
            tokens=tokens,
            truncated=truncated,
            empty=corpus.empty,
            drift=drift(manifest.extras),
            seconds={stage: round(value, 3) for stage, value in self.seconds.items()},
        )


def _check_model(live: Generation, loaded: ModelIdentity) -> None:
    """Refuse another model than the index's; the projection is the index's own in any case."""
    assert live.model is not None
    wanted = ModelIdentity.from_dict(live.model)
    if live.projection is not None and len(live.projection) == loaded.dim:
        loaded = dataclasses.replace(
            loaded, dim=wanted.dim, projection_sha256=wanted.projection_sha256
        )
    wanted.require_same(loaded)
