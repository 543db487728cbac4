"""The gateway's encoder: the model that the index was built with, loaded when text first needs it.

This is the only part of serving that imports torch, and only on the first text query; an index that
was built from vectors never does.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Protocol
from weakref import WeakValueDictionary

from colbert_core.errors import ModelError
from colbert_core.index import Generation
from colbert_core.types import F32


class QueryEncoder(Protocol):
    """What serving needs of colbert_core.text.Encoder."""

    def in_language(self, language: str) -> QueryEncoder:
        """The same model, reading in another language."""

    def encode_queries(self, texts: list[str]) -> list[F32]:
        """One float32 [L, D] per text."""

    def query_tokens(self, text: str) -> list[str]:
        """What to show for each row of `encode_queries([text])`."""

    def passage_spans(self, text: str) -> list[tuple[int, int]]:
        """The characters of `text` behind each stored token of a passage."""


class LazyEncoder:
    """Loads the encoder once, at the first use; safe to share between threads."""

    def __init__(
        self, source: str, load: Callable[[], QueryEncoder] | None, identity: str = ""
    ) -> None:
        """
        Args:
            source: the model's name.
            load: None where the index was built from vectors.
            identity: the same for encoders that give the same vectors, and no others.
        """
        self.source = source
        self.identity = identity
        self._load = load
        self._lock = threading.Lock()
        self._encoder: QueryEncoder | None = None

    @property
    def available(self) -> bool:
        """Whether text can be encoded."""
        return self._load is not None

    def get(self) -> QueryEncoder:
        """The encoder; blocks while it is loaded.

        Raises:
            ModelError: the index has no model, or it cannot be loaded.
            ModelMismatch: the model found is not the one that the index was built with.
        """
        if self._load is None:
            raise ModelError(
                "this index was built from vectors and names no model, so it cannot encode text: "
                "send the query as `vectors`, from the encoder that made the index's vectors"
            )
        with self._lock:
            if self._encoder is None:
                self._encoder = self._load()
            return self._encoder


class Encoders:
    """Generations with the same model share one encoder, which lives as long as any of them."""

    def __init__(self, make: Callable[[Generation], LazyEncoder] | None = None) -> None:
        """`make` is `encoder_of`, but in tests."""
        self._make = make or encoder_of
        self._by_model: WeakValueDictionary[str, LazyEncoder] = WeakValueDictionary()

    def of(self, generation: Generation) -> LazyEncoder:
        """The encoder of an open generation."""
        identity = identity_of(generation)
        encoder = self._by_model.get(identity)
        if encoder is None:
            encoder = self._by_model[identity] = self._make(generation)
        return encoder


def identity_of(generation: Generation) -> str:
    """The identity of a generation's model as one string: source, lengths, and checksums of the
    weights and of the projection."""
    return json.dumps(generation.model, sort_keys=True)


def encoder_of(generation: Generation, *, threads: int | None = None) -> LazyEncoder:
    """The encoder of an open generation, checked against the identity that the index stores."""
    stored = generation.model
    if stored is None:
        return LazyEncoder("", None)

    def load() -> QueryEncoder:
        from colbert_core.text import Encoder

        return Encoder.for_index(stored, generation.projection, threads=threads)

    return LazyEncoder(str(stored.get("source", "unknown")), load, identity_of(generation))
