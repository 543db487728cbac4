"""A batch worker whose model is arithmetic: a word has the same vector everywhere.

Loading torch and a model takes a worker many times as long as a small test's work. Tests of what
jobs do, whoever encodes, run with this one.
"""

from __future__ import annotations

import hashlib
import sys
import zlib

import numpy as np
from ray import cloudpickle

from colbert_core.text.encoded import EncodedPassages
from colbert_core.text.identity import ModelIdentity
from colbert_core.types import F32
from workers.encoder import EncoderWorker, WorkerSettings

DIM = 32

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # no worker finds this file


def vectors_of(words: list[str]) -> F32:
    """Float32 [L, DIM], of unit length."""
    seeds = [zlib.crc32(word.encode()) for word in words]
    rows = [np.random.default_rng(seed).standard_normal(DIM) for seed in seeds]
    vectors_LD = np.array(rows, np.float32).reshape(-1, DIM)
    return vectors_LD / np.linalg.norm(vectors_LD, axis=1, keepdims=True)


class LightModel:
    """What a worker asks of an `Encoder`."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.identity = ModelIdentity(
            source=settings.model,
            format="stanford",
            weights_sha256=hashlib.sha256(settings.model.encode()).hexdigest(),
            dim=DIM,
            query_maxlen=32,
            doc_maxlen=settings.doc_maxlen or 180,
        )

    def encode_passages(self, texts: list[str]) -> EncodedPassages:
        """One vector for each word, and one before them."""
        passages = [["[D]", *text.split()] for text in texts]
        kept = [words[: self.identity.doc_maxlen] for words in passages]
        cut = [len(words) > self.identity.doc_maxlen for words in passages]
        vectors_TD = vectors_of([word for words in kept for word in words])
        return EncodedPassages(vectors_TD, np.array([*map(len, kept)], np.int32), np.array(cut))


class LightWorker(EncoderWorker):
    """An `EncoderWorker` with a `LightModel`."""

    def _model(self) -> LightModel:
        return LightModel(self._settings)
