"""The batch worker: a Ray actor that turns units of passages into compressed chunks and shards.

It holds one model and, once there is one, the codec. It decides nothing: which unit, how often,
and what a failure means are the driver's to say (`cluster/worker_pool.py`). Each method's effect
is one file in the staging folder (or one shard), the same bytes however often it is repeated.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np
import ray

from colbert_core.codec import Codec, Compressed
from colbert_core.errors import CorpusError, JobFailed
from colbert_core.index import ShardEntry
from colbert_core.index.windows import WHOLE
from colbert_core.pooling import pool_passages, pooled_doclens
from colbert_core.text.corpus_records import shown_id
from colbert_core.types import F32, I32, AnyArray
from workers.memory import bound_kernel_caches, release_freed_memory
from workers.shard_builder import ShardTask, build_shard
from workers.units import Staging, Unit, UnitChunk, UnitVectors

if TYPE_CHECKING:
    from colbert_core.text import Encoder

CODEC_TIMEOUT_S = 120.0
COMPRESS_TOKENS = 16_384  # at a time, so that the codec's temporaries stay small


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker is told when it starts.

    Attributes:
        staging: folder of the job's unit files.
        model: path, hub name or alias.
        doc_maxlen: tokens of a passage, or None for the checkpoint's own.
        device: torch device, or None for the worker's own choice.
        threads: processor threads; they fix the order of sums, so a job keeps to one number.
        long_documents: "truncate", "error" or "split": what becomes of those that do not fit.
    """

    staging: str
    model: str
    doc_maxlen: int | None
    device: str | None
    threads: int
    long_documents: str = "truncate"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What a worker has loaded: the identity, as `ModelIdentity.to_dict` gives it, and where."""

    identity: Mapping[str, Any]
    pid: int


@dataclass(frozen=True, slots=True)
class SharedCodec:
    """How vectors are stored, as every worker gets it through the object store.

    Attributes:
        codec: the trained codec.
        projection: float32 [model's dim, codec's dim], or None.
        pool_factor: how many times fewer vectors than tokens a passage gets.
    """

    codec: Codec
    projection: F32 | None
    pool_factor: int


@dataclass(frozen=True, slots=True)
class CodecRef:
    """A `SharedCodec` in the object store, not yet fetched: Ray resolves bare references only."""

    ref: Any


@dataclass(frozen=True, slots=True)
class UnitResult:
    """What a worker reports of one unit."""

    unit: int
    passages: int
    tokens: int
    truncated: int


class EncoderWorker:
    """One model in one process. Methods are called by the driver, one at a time, in order."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._staging = Staging(settings.staging)
        self._encoder: Encoder | None = None
        self._shared: SharedCodec | None = None

    def load(self) -> LoadedModel:
        """Load the model; apart from `__init__`, so that its error arrives as it was raised.

        Raises:
            ModelError: the model cannot be loaded.
        """
        return LoadedModel(self._model().identity.to_dict(), os.getpid())

    def embed(self, unit: Unit) -> UnitResult:
        """Encode a sampled unit and keep its vectors."""
        vectors = self._encode(unit)
        self._staging.write_vectors(unit.index, vectors)
        release_freed_memory()
        return UnitResult(unit.index, unit.passages, len(vectors.vectors_TD), vectors.truncated)

    def compress(self, unit: Unit, codec: CodecRef) -> UnitResult:
        """Encode a unit, unless its vectors are kept, and commit its compressed chunk."""
        shared = self._codec(codec)
        vectors = self._staging.vectors(unit.index) or self._encode(unit)
        tokens = compress_vectors(shared, vectors)
        doclens_N = pooled_doclens(vectors.doclens_N, shared.pool_factor)
        chunk = UnitChunk(tokens, doclens_N, vectors.truncated, vectors.windows_N3)
        self._staging.write_chunk(unit.index, chunk)
        self._staging.vectors_path(unit.index).unlink(missing_ok=True)
        release_freed_memory()
        return UnitResult(unit.index, unit.passages, len(tokens), vectors.truncated)

    def build_shard(self, index: str, task: ShardTask, codec: CodecRef) -> ShardEntry:
        """Write one shard from the chunks of its passages."""
        return build_shard(index, self._staging, task, self._codec(codec).codec)

    def _model(self) -> Encoder:
        if self._encoder is None:
            bound_kernel_caches()
            from colbert_core.text import Encoder  # torch: in the worker, not where this is sent

            settings = self._settings
            self._encoder = Encoder.load(
                settings.model,
                device=settings.device,
                threads=settings.threads,
                doc_maxlen=settings.doc_maxlen,
            )
        return self._encoder

    def _codec(self, codec: CodecRef) -> SharedCodec:
        if self._shared is None:
            try:
                self._shared = ray.get(codec.ref, timeout=CODEC_TIMEOUT_S)
            except ray.exceptions.GetTimeoutError as error:
                raise JobFailed(
                    f"the codec did not arrive from the object store in {CODEC_TIMEOUT_S:.0f} s; "
                    "check the network between this worker and the driver"
                ) from error
        return self._shared

    def _encode(self, unit: Unit) -> UnitVectors:
        passages, encoder = self._staging.passages(unit.index), self._model()
        texts, windows_N3 = passages.texts, None
        if self._settings.long_documents == "split":
            texts, windows_N3 = _split(texts, encoder.passage_windows(texts))
        encoded = encoder.encode_passages(texts)
        if self._settings.long_documents == "error" and encoded.truncated_N.any():
            self._refuse(unit, passages.ids[int(encoded.truncated_N.argmax())])
        return UnitVectors(
            # Rounded for every unit, kept or not: its bytes must not depend on being sampled.
            encoded.vectors_TD.astype(np.float16),
            encoded.doclens_N,
            int(encoded.truncated_N.sum()),
            windows_N3,
        )

    def _refuse(self, unit: Unit, passage: str) -> NoReturn:
        row = self._staging.row(unit.index, self._staging.passages(unit.index).ids.index(passage))
        raise CorpusError(
            f"line {row.line} (id {shown_id(passage)}): its text is longer than the "
            f"{self._model().identity.doc_maxlen} tokens that are kept of a passage: raise "
            "--doc-maxlen, or choose --long-documents split or truncate"
        )


def _split(
    texts: Sequence[str], windows: Sequence[Sequence[tuple[int, int]]]
) -> tuple[list[str], I32]:
    """The text of every window, and int32 [N, 3] of what it is a window of."""
    parts, rows = [], []
    for document, (text, spans) in enumerate(zip(texts, windows, strict=True)):
        parts += [text[start:stop] for start, stop in spans]
        rows += [(document, *(span if len(spans) > 1 else WHOLE)) for span in spans]
    return parts, np.array(rows, np.int32).reshape(-1, 3)


def compress_vectors(shared: SharedCodec, vectors: UnitVectors) -> Compressed:
    """Project, normalise, pool if asked, and compress the vectors of a unit."""
    slices = (project(part, shared.projection) for part in _slices(vectors.vectors_TD))
    if shared.pool_factor > 1:  # slices do not end where passages do
        unit_TD = np.concatenate(list(slices))
        slices = _slices(pool_passages(unit_TD, vectors.doclens_N, shared.pool_factor))
    parts = [shared.codec.compress(slice_TD) for slice_TD in slices]
    return Compressed(
        np.concatenate([part.codes_T for part in parts]),
        np.concatenate([part.residuals_TB for part in parts]),
        np.concatenate([part.scales_T for part in parts]),
    )


def _slices(vectors_TD: AnyArray) -> Generator[AnyArray]:
    for start in range(0, max(len(vectors_TD), 1), COMPRESS_TOKENS):
        yield vectors_TD[start : start + COMPRESS_TOKENS]


def project(vectors_TD: Any, projection: F32 | None) -> F32:
    """Float16 [T, D] as the model gave them → float32 unit vectors as the codec takes them."""
    wide_TD: F32 = vectors_TD.astype(np.float32)
    if projection is not None:
        wide_TD = wide_TD @ projection
    norms_T = np.linalg.norm(wide_TD, axis=1, keepdims=True)
    return cast(F32, wide_TD / np.maximum(norms_T, np.float32(1e-12)))
