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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from cluster import job_stages as stages
from cluster.build_settings import BuildSettings, absolute_if_folder
from cluster.corpus_units import StagedCorpus
from cluster.index_folder import STAGING, BuildPlace
from cluster.index_job import asked_for
from cluster.job import Job, device_of
from cluster.ledger import Started
from cluster.ledger_file import Ledger
from cluster.plan import plan_workers
from cluster.progress import Progress, SilentProgress
from cluster.ray_session import ray_session
from colbert_core.change import Change, changing, find_present, publish_added
from colbert_core.drift import drift
from colbert_core.errors import QueryError
from colbert_core.index import Generation
from colbert_core.storage import Location
from colbert_core.text.corpus import Corpus, corpus_files
from colbert_core.text.identity import ModelIdentity
from colbert_core.types import I64
from workers.encoder import CodecRef, SharedCodec

ADDING = "add"
"""Folder under `staging/`; an add that was killed begins anew."""


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
            job = Job(_settings(change.live, model), place, report)
            return _run(job, change, files, replace, workers)
    finally:
        report.close()


@contextmanager
def _staging(change: Change) -> Iterator[BuildPlace]:
    folder = change.index / STAGING / ADDING
    shutil.rmtree(folder, ignore_errors=True)  # of one that was killed: the lock is ours
    folder.mkdir(parents=True)
    place = BuildPlace(change.index, folder, Ledger.read(change.index, folder), False, None)
    try:
        yield place
    finally:
        place.ledger.close()
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # a build that did not end is there, too
            folder.parent.rmdir()


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
        long_documents=str(live.manifest.extras.get("long_documents", "truncate")),
        language=identity.language,
    )


def _run(
    job: Job, change: Change, files: Sequence[Location], replace: bool, workers: int | None
) -> AddReport:
    began = time.monotonic()
    live = change.live
    job.place.ledger.begin(asked_for(job.settings, files))
    corpus = stages.read(job, files)
    present = _present(job, change, corpus, replace)
    with ExitStack() as stack:
        with job.stage("start", None, "models"):
            session = stack.enter_context(ray_session(purpose="index add"))
            plan = plan_workers(
                workers,
                None,
                None,
                text_bytes=corpus.text_bytes,
                cpus=session.cpus,
                gpus=session.gpus,
            )
            pool = stack.enter_context(job.pool(plan))
            identity = pool.first_model().identity
            _check_model(live, ModelIdentity.from_dict(identity))
            job.commit(Started(identity, device_of(plan), change.generation))
            job.progress.advance(1)
        shared = SharedCodec(live.codec, live.projection, job.settings.pool_factor)
        codec_ref = CodecRef(ray.put(shared))
        units = stages.encode(job, corpus, codec_ref, pool)
        entries = stages.write(job, units, live.codec, codec_ref, pool)
    truncated = sum(result.truncated for result in units)
    with job.stage("publish", 1, "generations"):
        manifest = publish_added(change, entries, present, truncated)
        job.progress.advance(1)
    return AddReport(
        index=str(job.place.index),
        generation=manifest.generation,
        added=corpus.passages,
        replaced=sum(len(places_F) for places_F, _ in present),
        passages=manifest.documents,
        tokens=sum(result.tokens for result in units),
        truncated=truncated,
        empty=corpus.empty,
        drift=drift(manifest.extras),
        seconds={name: round(s, 3) for name, s in job.seconds.items()}
        | {"total": round(time.monotonic() - began, 3)},
    )


def _present(
    job: Job, change: Change, corpus: StagedCorpus, replace: bool
) -> list[tuple[I64, I64]]:
    """Where ids of the corpus are in the index already: places in the corpus, and passages.

    Raises:
        CorpusError: some are, and they are not to be replaced.
    """
    ids = [one for unit in corpus.units for one in job.staging.passages(unit.index).ids]
    return find_present(change.live, ids, replace=replace)


def _check_model(live: Generation, loaded: ModelIdentity) -> None:
    """Refuse another model than the index's; the projection is the index's own in any case."""
    assert live.model is not None
    wanted = ModelIdentity.from_dict(live.model)
    if live.projection is not None and len(live.projection) == loaded.dim:
        loaded = dataclasses.replace(
            loaded, dim=wanted.dim, projection_sha256=wanted.projection_sha256
        )
    wanted.require_same(loaded)
