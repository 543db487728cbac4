"""Text in, token vectors out: the one class that the rest of Tartan knows of a model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from colbert_core.errors import InvalidInput, ModelError
from colbert_core.text.aliases import DEFAULT_MODEL, lasting_name, locate
from colbert_core.text.batches import plan_batches
from colbert_core.text.checkpoint import read_checkpoint
from colbert_core.text.device import Precision, device_for, dtype_for, one_thread, token_budget
from colbert_core.text.encoded import DevicePassages, EncodedPassages, lengths
from colbert_core.text.identity import ModelIdentity, identity_of
from colbert_core.text.languages import Languages
from colbert_core.text.network import Network
from colbert_core.text.projection import matrix_sha256
from colbert_core.text.query_weights import read_query_weights
from colbert_core.text.spans import NO_SPAN
from colbert_core.text.together import Together
from colbert_core.text.tokens import TextTokenizer, Tokens
from colbert_core.types import F32


class Encoder:
    """A checkpoint that turns queries and passages into token vectors.

    A query's vectors depend on its text alone. A passage's depend, in the last bits, on what it is
    batched with, which the list of texts decides: the same list gives the same bits.

    Attributes:
        identity: what an index stores, to refuse another model.
        dim: dimensions of the vectors.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        network: Network,
        identity: ModelIdentity,
        languages: Languages,
        query_weights: F32 | None,
        projection: F32 | None = None,
    ) -> None:
        """Use `Encoder.load`."""
        self._tokenizer = tokenizer
        self._network = network
        self._matrix = None if projection is None else torch.from_numpy(projection)
        self._query_weights_V = query_weights
        self._together = Together()
        self._languages = languages
        self._language = languages.number(identity.language)
        self.identity = identity

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] = DEFAULT_MODEL,
        *,
        device: str | None = None,
        threads: int | None = None,
        doc_maxlen: int | None = None,
        query_maxlen: int | None = None,
        language: str | None = None,
        precision: Precision = "auto",
    ) -> Encoder:
        """Load a model.

        Args:
            model: the path of a checkpoint, a hub name, or an alias of `ALIASES`.
            device: a torch device; the default is the GPU, if there is one.
            threads: processor threads for torch, for the whole process; None leaves them.
            doc_maxlen, query_maxlen: lengths in tokens other than the checkpoint's own.
            language: whose adapter reads, where the model has one for each; None: its default.
            precision: of the backbone. "auto" is bfloat16 where the processor multiplies it.

        Raises:
            ModelError: the model cannot be found or loaded; says what to do.
            InvalidInput: a length, language, device or thread count that is not possible.
        """
        checkpoint = read_checkpoint(locate(model))
        chosen = checkpoint.languages.choose(language)
        place = device_for(device)
        if threads is not None:
            if threads < 1:
                raise InvalidInput(f"threads {threads}: at least 1 is needed")
            torch.set_num_threads(threads)
        tokenizer = TextTokenizer(checkpoint, query_maxlen=query_maxlen, doc_maxlen=doc_maxlen)
        network = Network.load(checkpoint, place, dtype_for(precision, place))
        identity = identity_of(lasting_name(model), checkpoint, tokenizer, network.dim, chosen)
        weights_V = read_query_weights(checkpoint.folder, tokenizer.vocabulary)
        return cls(tokenizer, network, identity, checkpoint.languages, weights_V)

    @classmethod
    def for_index(
        cls,
        identity: Mapping[str, Any],
        projection: F32 | None = None,
        *,
        model: str | os.PathLike[str] | None = None,
        device: str | None = None,
        threads: int | None = None,
        precision: Precision = "auto",
    ) -> Encoder:
        """The encoder that an index was built with.

        Args:
            identity: what `ModelIdentity.to_dict` gave when the index was built.
            projection: float32 [raw, dim], stored with the index, or None.
            model: where the model is now; the default is where it was then.
            device, threads, precision: as for `load`.

        Raises:
            ModelMismatch: what was found is another model; names both.
            ModelError: the model cannot be found or loaded.
            InvalidInput: the identity was written by a newer Tartan.
        """
        wanted = ModelIdentity.from_dict(identity)
        encoder = cls.load(
            wanted.source if model is None else model,
            device=device,
            threads=threads,
            doc_maxlen=wanted.doc_maxlen,
            query_maxlen=wanted.query_maxlen,
            language=wanted.language,
            precision=precision,
        )
        if projection is not None:
            encoder = encoder.project(projection)
        wanted.require_same(encoder.identity)
        return encoder

    @property
    def dim(self) -> int:
        """Dimensions of the vectors."""
        return self.identity.dim

    def project(self, matrix: F32) -> Encoder:
        """The same model with its vectors multiplied by `matrix` (`fit_pca`), then normalised.

        Args:
            matrix: float32 [D, dim].

        Raises:
            InvalidInput: the matrix does not fit the vectors, or one is already in place.
        """
        if self._matrix is not None:
            raise InvalidInput("this encoder already has a projection: project the one it is from")
        if matrix.ndim != 2 or matrix.shape[0] != self.dim or not np.isfinite(matrix).all():
            raise InvalidInput(
                f"a projection of shape {matrix.shape} does not fit vectors of {self.dim}"
                " dimensions, or is not finite"
            )
        own = np.array(matrix, dtype=np.float32, order="C")
        identity = replace(self.identity, dim=own.shape[1], projection_sha256=matrix_sha256(own))
        return self._like(identity, own)

    def in_language(self, language: str) -> Encoder:
        """The same model, reading with the adapter of another language; shares its weights.

        Raises:
            InvalidInput: it has no such adapter.
        """
        identity = replace(self.identity, language=self._languages.choose(language))
        other = self._like(identity, None if self._matrix is None else self._matrix.numpy())
        other._together = self._together  # shapes, which decide, are the same
        return other

    def encode_queries(self, texts: Sequence[str]) -> list[F32]:
        """One float32 [L, D] per query: of unit length, or of the weight of each token, where the
        model has such (`query_weights.py`).

        Raises:
            InvalidInput: a text is not a string of characters.
            ModelError: the model gave a vector that is not finite.
        """
        # On one thread, and together only where it gives the same: a batch's shape and the number
        # of threads change the last bits, and the same query must score the same everywhere.
        queries = self._tokenizer.queries(_checked(texts))
        with one_thread():
            vectors = self._together.encode(queries, self._encode)
        weights_V = self._query_weights_V
        if weights_V is None:
            return vectors
        kept = [[tokens.ids[at] for at in tokens.kept] for tokens in queries]
        return [Q_LD * weights_V[ids, None] for Q_LD, ids in zip(vectors, kept, strict=True)]

    def encode_passages(self, texts: Sequence[str]) -> EncodedPassages:
        """The vectors of passages, in the order given.

        Raises:
            InvalidInput: a text is not a string of characters.
            ModelError: the model gave a vector that is not finite.
        """
        passages = self._tokenizer.passages(_checked(texts))
        doclens_N, truncated_N = lengths(passages)
        starts_N = np.concatenate([[0], np.cumsum(doclens_N, dtype=np.int64)])
        vectors_TD = np.empty((int(starts_N[-1]), self.dim), dtype=np.float32)
        for batch in self._batches(passages):
            rows_RD = self._encode([passages[index] for index in batch])
            taken = 0
            for index in batch:
                length = int(doclens_N[index])
                start = starts_N[index]
                vectors_TD[start : start + length] = rows_RD[taken : taken + length]
                taken += length
        return EncodedPassages(vectors_TD, doclens_N, truncated_N)

    def encode_on_device(self, texts: Sequence[str]) -> DevicePassages:
        """The vectors of passages, in float16, left on the model's device: the same numbers as
        `encode_passages` gives, rounded.

        Raises:
            InvalidInput: a text is not a string of characters.
            ModelError: the model gave a vector that is not finite.
        """
        passages = self._tokenizer.passages(_checked(texts))
        doclens_N, truncated_N = lengths(passages)
        ends_N = np.cumsum(doclens_N, dtype=np.int64)
        device = self._network.device
        shape = int(doclens_N.sum()), self.dim
        vectors_TD = torch.empty(shape, dtype=torch.float16, device=device)
        finite = torch.ones((), dtype=torch.bool, device=device)
        for batch in self._batches(passages):
            x_RD = self._forward([passages[index] for index in batch])
            # Asked once for all batches: each answer would wait for the device.
            finite &= torch.isfinite(x_RD).all()
            rows = [np.arange(ends_N[index] - doclens_N[index], ends_N[index]) for index in batch]
            vectors_TD[torch.from_numpy(np.concatenate(rows)).to(device)] = x_RD.half()
        if not finite:
            raise self._not_finite()
        return DevicePassages(vectors_TD, doclens_N, truncated_N)

    def _batches(self, passages: Sequence[Tokens]) -> list[list[int]]:
        budget = token_budget(self._network.device)
        return plan_batches([len(tokens.ids) for tokens in passages], budget)

    def query_tokens(self, text: str) -> list[str]:
        """What to show for each row of `encode_queries([text])`: the word piece, or the marker."""
        (tokens,) = self._tokenizer.queries(_checked([text]), spans=True)
        names = self._tokenizer.names(tokens.ids)
        return [_shown(names[at], tokens.spans[at], text) for at in tokens.kept]

    def query_truncated(self, text: str) -> bool:
        """Whether the query is longer than `query_maxlen`, so that its end is not searched for."""
        (tokens,) = self._tokenizer.queries(_checked([text]))
        return tokens.truncated

    def passage_spans(self, text: str) -> list[tuple[int, int]]:
        """The characters of `text` behind each row of `encode_passages([text])`.

        Returns:
            (start, end) per row; (-1, -1) for markers, and for all with a tokenizer that does not
            keep offsets.
        """
        (tokens,) = self._tokenizer.passages(_checked([text]), spans=True)
        return [tokens.spans[at] for at in tokens.kept]

    def passage_windows(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """The characters [start, end) of each text in windows of at most `doc_maxlen` tokens: one
        for a text that is not too long, else several that overlap by a quarter.

        Raises:
            InvalidInput: a text is not a string of characters, or the tokenizer cannot split it.
        """
        return self._tokenizer.windows(_checked(texts))

    def _like(self, identity: ModelIdentity, matrix: F32 | None) -> Encoder:
        """The same weights under another identity."""
        own = (self._tokenizer, self._network, identity, self._languages, self._query_weights_V)
        return Encoder(*own, matrix)

    def _encode(self, batch: list[Tokens]) -> F32:
        """float32 [R, D]: the kept vectors of the texts of one batch, one after the other."""
        vectors_RD: F32 = self._forward(batch).cpu().numpy()
        if not np.isfinite(vectors_RD).all():
            raise self._not_finite()
        return vectors_RD

    def _forward(self, batch: list[Tokens]) -> torch.Tensor:
        """The same on the device, not looked at."""
        width = max(len(tokens.ids) for tokens in batch)
        ids_BL = np.full((len(batch), width), self._tokenizer.pad_id, dtype=np.int64)
        attention_BL = np.zeros((len(batch), width), dtype=np.int64)
        kept: list[int] = []
        for row, tokens in enumerate(batch):
            ids_BL[row, : len(tokens.ids)] = tokens.ids
            attention_BL[row, : tokens.attended] = 1
            kept += [row * width + at for at in tokens.kept]
        with torch.inference_mode():
            x = self._network(
                torch.from_numpy(ids_BL),
                torch.from_numpy(attention_BL),
                torch.tensor(kept, dtype=torch.int64),
                self._language,
            )
            if self._matrix is not None:
                x = x @ self._matrix.to(x.device)
            return torch.nn.functional.normalize(x, dim=-1)

    def _not_finite(self) -> ModelError:
        return ModelError(
            f"model {self.identity.source!r} gave vectors that are not finite: its weights"
            " are damaged or overflow in this precision; load it with precision='float32'"
        )


def _checked(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str):
        raise InvalidInput("give a list of texts, not one string")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidInput(f"text {index} is a {type(text).__name__}, not a string: {text!r}")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidInput(
                f"text {index} holds half of a UTF-16 surrogate pair, which is no character:"
                " decode its source as UTF-8 with errors='replace'"
            ) from error
    return list(texts)


def _shown(name: str, span: tuple[int, int], text: str) -> str:
    if span == NO_SPAN:
        return name
    return ("##" if name.startswith("##") else "") + text[span[0] : span[1]]
