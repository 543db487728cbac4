"""The batch worker: a Ray actor that turns units of passages into compressed chunks and shards.

It holds one model and, once there is one, the codec. It decides nothing: which unit, how often,
and what a failure means are the driver's to say (`cluster/worker_run.py`). Each method's effect
is one file in the staging folder (or one shard), the same bytes however often it is repeated.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import ray

from colbert_core.codec import Codec, Compressed
from colbert_core.errors import CorpusError, EncodeFailed, JobFailed
from colbert_core.index.manifest import FileEntry
from colbert_core.index.windows import WHOLE
from colbert_core.pooling import pool_passages, pooled_doclens
from colbert_core.runs import runs
from colbert_core.text.corpus_records import shown_id
from colbert_core.types import F16, F32, I32
from workers.memory import bound_kernel_caches, release_freed_memory
from workers.sample_worker import SampleWorker, project
from workers.shard_builder import BuiltShard, ShardTask, build_shard
from workers.units import Staging, Unit, UnitChunk, UnitVectors

if TYPE_CHECKING:
    import torch

    from colbert_core.text import Encoder
    from colbert_core.text.encoded import DevicePassages, EncodedPassages
    from workers.device_compressor import DeviceCompressor

CODEC_TIMEOUT_S = 120.0
COMPRESS_TOKENS = 16_384  # at a time, so that the codec's temporaries stay small

Rows = tuple[int, ...]
"""Rows of a unit, ascending."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker is told when it starts.

    Attributes:
        staging: folder of the job's unit files.
        model: path, hub name or alias.
        doc_maxlen: tokens of a passage, or None for the checkpoint's own.
        device: "cpu"; "cuda", where vectors are compressed as well, without leaving it; or
            "torch:cpu", the GPU's steps on the processor, for testing.
        threads: processor threads; they fix the order of sums, so a job keeps to one number.
        long_documents: "truncate", "error" or "split": what becomes of those that do not fit.
        language: whose adapter reads, where the model has one for each; None for its default.
    """

    staging: str
    model: str
    doc_maxlen: int | None
    device: str
    threads: int
    long_documents: str = "truncate"
    language: str | None = None


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
    """What a worker reports of one unit, and the driver writes into the ledger.

    Attributes:
        unit: its index.
        passages: how many were encoded.
        tokens: vectors that they have.
        truncated: passages that were cut to the model's length.
        skipped: rows of the unit that were left out.
        file: the file that was committed.
    """

    unit: int
    passages: int
    tokens: int
    truncated: int
    skipped: tuple[int, ...]
    file: FileEntry


class EncoderWorker(SampleWorker):
    """One model in one process. Methods are called by the driver, one at a time, in order."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._staging = Staging(settings.staging)
        self._encoder: Encoder | None = None
        self._shared: SharedCodec | None = None
        self._compressor: DeviceCompressor | None = None

    def load(self) -> LoadedModel:
        """Load the model; apart from `__init__`, so that its error arrives as it was raised.

        Raises:
            ModelError: the model cannot be loaded.
        """
        return LoadedModel(self._model().identity.to_dict(), os.getpid())

    def embed(self, unit: Unit, skip: Rows) -> UnitResult:
        """Encode a sampled unit, but for the rows to skip, and keep its vectors."""
        vectors = self._encode(unit, skip)
        file = self._staging.write_vectors(unit.index, vectors)
        release_freed_memory()
        return _result(unit, vectors, len(vectors.vectors_TD), file)

    def compress(self, unit: Unit, skip: Rows, codec: CodecRef) -> UnitResult:
        """Encode a unit, unless its vectors are kept, and commit its compressed chunk."""
        shared = self._codec(codec)
        vectors = self._staging.vectors(unit.index) or self._encode(unit, skip)
        tokens = self._compress(shared, vectors)
        doclens_N = pooled_doclens(vectors.doclens_N, shared.pool_factor)
        chunk = UnitChunk(tokens, doclens_N, vectors.truncated, vectors.skipped, vectors.windows_N3)
        file = self._staging.write_chunk(unit.index, chunk)
        self._staging.vectors_path(unit.index).unlink(missing_ok=True)
        release_freed_memory()
        return _result(unit, vectors, len(tokens), file)

    def probe(self, unit: Unit, rows: Rows) -> int:
        """Encode some rows of a unit and throw the vectors away: does the model fail on them?

        Raises:
            EncodeFailed: it does. A process that ends over them says so, too.
        """
        texts = self._staging.passages(unit.index).texts
        return len(self._encode_texts(unit, [texts[row] for row in rows]).vectors_TD)

    def build_shard(self, index: str, task: ShardTask, codec: CodecRef) -> BuiltShard:
        """Write one shard from the chunks of its passages."""
        built = build_shard(index, self._staging, task, self._codec(codec).codec)
        release_freed_memory()
        return built

    @property
    def _computes_on_device(self) -> bool:
        return self._settings.device != "cpu"

    def _model(self) -> Encoder:
        if self._encoder is None:
            bound_kernel_caches()
            from colbert_core.text import Encoder  # torch: in the worker, not where this is sent

            settings = self._settings
            self._encoder = Encoder.load(
                settings.model,
                device=settings.device.removeprefix("torch:"),
                threads=settings.threads,
                doc_maxlen=settings.doc_maxlen,
                language=settings.language,
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

    def _compress(self, shared: SharedCodec, vectors: UnitVectors) -> Compressed:
        if not self._computes_on_device:
            return compress_vectors(shared, vectors)
        if self._compressor is None:
            from workers.device_compressor import DeviceCompressor

            self._compressor = DeviceCompressor(
                self._settings.device, shared.codec, shared.projection, shared.pool_factor
            )
        return self._compressor(vectors)

    def _encode(self, unit: Unit, skip: Rows) -> UnitVectors:
        passages = self._staging.passages(unit.index).without(skip)
        texts, windows_N3 = passages.texts, None
        if self._settings.long_documents == "split":
            texts, windows_N3 = _split(texts, self._model().passage_windows(texts))
        encoded = self._encode_texts(unit, texts)
        if self._settings.long_documents == "error" and encoded.truncated_N.any():
            self._refuse(unit, passages.ids[int(encoded.truncated_N.argmax())])
        return UnitVectors(
            # Rounded for every unit, kept or not: its bytes must not depend on being sampled.
            _rounded(encoded.vectors_TD),
            encoded.doclens_N,
            int(encoded.truncated_N.sum()),
            skip,
            windows_N3,
        )

    def _encode_texts(self, unit: Unit, texts: list[str]) -> EncodedPassages | DevicePassages:
        model = self._model()
        try:
            if self._computes_on_device:
                return model.encode_on_device(texts)
            return model.encode_passages(texts)
        except Exception as error:  # whatever a model may raise: the driver finds the passage
            raise EncodeFailed(f"{unit}: {type(error).__name__}: {error}") from error

    def _refuse(self, unit: Unit, passage: str) -> NoReturn:
        row = self._staging.row(unit.index, self._staging.passages(unit.index).ids.index(passage))
        raise CorpusError(
            f"line {row.line} (id {shown_id(passage)}): its text is longer than the "
            f"{self._model().identity.doc_maxlen} tokens that are kept of a passage: raise "
            "--doc-maxlen, or choose --long-documents split or truncate"
        )


def _rounded(vectors_TD: F32 | torch.Tensor) -> F16 | torch.Tensor:
    """Float16 [T, D]; what the encoder left on a device has been rounded there."""
    return vectors_TD.astype(np.float16) if isinstance(vectors_TD, np.ndarray) else vectors_TD


def _result(unit: Unit, vectors: UnitVectors, tokens: int, file: FileEntry) -> UnitResult:
    skipped = vectors.skipped
    passages = unit.passages - len(skipped)
    return UnitResult(unit.index, passages, tokens, vectors.truncated, skipped, file)


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
    """Project, normalise, pool if asked, and compress the vectors of a unit, some passages at a
    time."""
    unit_TD, factor = vectors.on_host(), shared.pool_factor
    ends_N = np.cumsum(vectors.doclens_N, dtype=np.int64)
    parts = [Compressed.empty(shared.codec.token_bytes, shared.codec.context_bytes)]
    for start, stop in runs(vectors.doclens_N, COMPRESS_TOKENS):
        doclens_n = vectors.doclens_N[start:stop]
        some_TD = unit_TD[ends_N[start] - doclens_n[0] : ends_N[stop - 1]]
        units_TD = project(some_TD, shared.projection)
        pooled_TD = pool_passages(units_TD, doclens_n, factor)
        parts.append(shared.codec.compress(pooled_TD, pooled_doclens(doclens_n, factor)))
    return Compressed.joined(parts)
