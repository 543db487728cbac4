"""The stages of an index job that make its codec: a sample of the corpus, and training on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from cluster.corpus_units import StagedCorpus
from cluster.job import Job
from cluster.ledger import Embedded, Trained
from cluster.plan import choose_sample, estimate_tokens
from cluster.worker_pool import WorkerPool
from cluster.workers_sample import workers_sample
from colbert_core.codec import Codec, rotation_of, train_codec_on
from colbert_core.index import write_codec
from colbert_core.index.files import entry_of
from colbert_core.text.identity import ModelIdentity
from colbert_core.types import F32
from workers.encoder import UnitResult
from workers.memory import release_freed_memory

SAMPLE_BYTES = 32 * 2**30  # most that the sample of a very large corpus may take, on all workers


def sample(
    job: Job, corpus: StagedCorpus, identity: ModelIdentity, pool: WorkerPool
) -> tuple[UnitResult, ...]:
    """Encode the units that the codec is trained on."""
    # Torch: imported once there is a corpus and a model to use it for.
    from colbert_core.codec.kmeans import SAMPLE_PER_CENTROID, default_centroids

    longest = None if job.settings.long_documents == "split" else identity.doc_maxlen
    estimates = [estimate_tokens(unit, longest) for unit in corpus.units]
    stored = max(1, sum(estimates) // job.settings.pool_factor)
    centroids = job.settings.centroids or default_centroids(stored)
    dim = job.settings.kept_dim(identity)
    target = min(centroids * SAMPLE_PER_CENTROID, SAMPLE_BYTES // dim)
    chosen = [corpus.units[index] for index in choose_sample(estimates, target, job.settings.seed)]
    known = job.done.embedded
    return job.over_units("sample", "embed", chosen, (), pool, known, Embedded)


def train(
    job: Job,
    corpus: StagedCorpus,
    identity: ModelIdentity,
    sample: Sequence[UnitResult],
    pool: WorkerPool,
) -> tuple[Codec, F32 | None]:
    """Fit the projection and train the codec on the vectors that were kept, where they lie."""
    from colbert_core.codec.kmeans import ITERATIONS

    tokens = sum(result.tokens for result in sample)
    sampled_bytes = sum(corpus.units[result.unit].text_bytes for result in sample)
    total_tokens = round(tokens * corpus.text_bytes / max(1, sampled_bytes))
    settings = job.settings
    dim = settings.kept_dim(identity)
    with (
        job.stage("train", ITERATIONS, "iterations"),
        # Eigenvectors and rotations come out otherwise with another number of threads, and a
        # process does not always get the same.
        threadpool_limits(1, "blas"),
        workers_sample(pool, job.staging, sample) as vectors,
    ):
        rotation_DD = rotation_of(settings.codec, dim, settings.seed)
        projection = vectors.projection(identity.dim, dim, settings.seed)
        vectors.prepare(projection, rotation_DD)
        codec = train_codec_on(
            vectors,
            rotation_DD,
            name=settings.codec,
            bits=settings.bits,
            centroids=settings.centroids,
            total_tokens=max(1, max(total_tokens, tokens) // settings.pool_factor),
            seed=settings.seed,
            on_iteration=lambda _done, _of: job.progress.advance(1),
        )
    return codec, projection


def trained_codec(
    job: Job, train_it: Callable[[], tuple[Codec, F32 | None]]
) -> tuple[Codec, F32 | None]:
    """The codec as it lies on disk: what was committed, or what is trained and committed now.

    It is always read back, so that a job that was interrupted goes on with the very same numbers.
    """
    folder = job.place.index / "global" / job.generation
    if job.done.trained is None:
        shutil.rmtree(folder, ignore_errors=True)
        codec, projection = train_it()
        write_codec(job.place.index, job.generation, codec, projection)
        job.commit(Trained({path.name: entry_of(path) for path in sorted(folder.iterdir())}))
    codec = Codec.load(folder)
    release_freed_memory()  # for the hours of encoding that follow
    matrix = folder / "projection.npy"
    return codec, np.load(matrix) if matrix.exists() else None
