"""The bi-encoder to compare with: one vector a text, the mean of its token vectors."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch

from colbert_core.text.aliases import locate
from colbert_core.text.batches import plan_batches
from colbert_core.text.checkpoint import read_checkpoint
from colbert_core.text.network import load_backbone
from colbert_core.text.tokens import TextTokenizer, Tokens
from colbert_core.train.batches import padded
from colbert_core.types import F32

_TOKEN_BUDGET = 4096


class MeanPooled:
    """An encoder whose text vectors are the means of its token vectors, of unit length.

    Args:
        model: path, hub name or alias of an encoder.
        language: whose adapter reads, where the model has one for each; None: its default.

    Raises:
        ModelError: it cannot be loaded.
        InvalidInput: it has no adapter of the language, or nothing says which.
    """

    def __init__(self, model: str | os.PathLike[str], language: str | None = None) -> None:
        checkpoint = read_checkpoint(locate(model))
        languages = checkpoint.languages
        self._language = languages.number(languages.choose(language))
        self._tokenizer = TextTokenizer(checkpoint)
        self._backbone, self.dim = load_backbone(checkpoint, torch.float32)

    def queries(self, texts: Sequence[str]) -> F32:
        """float32 [texts, H]."""
        return self._encode(self._tokenizer.queries(texts))

    def passages(self, texts: Sequence[str]) -> F32:
        """float32 [texts, H]."""
        return self._encode(self._tokenizer.passages(texts))

    def _encode(self, texts: Sequence[Tokens]) -> F32:
        vectors_NH = np.empty((len(texts), self.dim), np.float32)
        for batch in plan_batches([len(tokens.ids) for tokens in texts], _TOKEN_BUDGET):
            block = padded([texts[at] for at in batch], self._tokenizer.pad_id, torch.device("cpu"))
            options = {}
            if self._language is not None:
                options["lang_ids"] = torch.full((len(batch),), self._language)
            with torch.inference_mode():
                hidden_BLH = self._backbone(
                    input_ids=block.ids_BL, attention_mask=block.attention_BL, **options
                )[0]
                summed_BH = (hidden_BLH * block.attention_BL[..., None]).sum(1)
                vectors_NH[batch] = torch.nn.functional.normalize(summed_BH, dim=-1).numpy()
        return vectors_NH
