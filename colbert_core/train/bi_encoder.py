"""One vector a text: what late interaction is compared with, and what may teach it.

A sentence-transformers folder says how its token vectors become one (`modules.json`); any other
encoder's are averaged.

Shapes: N texts, B of a batch, L tokens, H dimensions of the backbone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from colbert_core.errors import ModelError
from colbert_core.text.aliases import locate
from colbert_core.text.batches import plan_batches
from colbert_core.text.checkpoint import read_checkpoint
from colbert_core.text.network import load_backbone
from colbert_core.text.settings import Settings, parse_json
from colbert_core.text.tokens import TextTokenizer, Tokens
from colbert_core.train.batches import padded
from colbert_core.types import F32

Pooling = Literal["mean", "first"]

_TOKEN_BUDGET = 4096
_MODES: dict[str, Pooling] = {
    "mean_tokens": "mean",
    "mean": "mean",
    "cls_token": "first",
    "cls": "first",
}


class BiEncoder:
    """An encoder whose text vectors are its pooled token vectors, of unit length.

    Args:
        model: path, hub name or alias of an encoder.
        language: whose adapter reads, where the model has one for each; None: its default.
        device: where the backbone runs.
        dtype: what it runs in; text vectors are pooled in float32.
        passage_tokens: of a passage that are read; None: as many as the model reads.

    Raises:
        ModelError: it cannot be loaded, or pools in another way than `pooling_of` knows.
        InvalidInput: it has no adapter of the language, or nothing says which, or it does not read
            so many tokens.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        language: str | None = None,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        passage_tokens: int | None = None,
    ) -> None:
        checkpoint = read_checkpoint(locate(model))
        self._pooling = pooling_of(checkpoint.folder)
        self._language = checkpoint.languages.number(checkpoint.languages.choose(language))
        self._tokenizer = TextTokenizer(checkpoint, doc_maxlen=passage_tokens)
        self._device = device or torch.device("cpu")
        backbone, self.dim = load_backbone(checkpoint, dtype)
        self._backbone = backbone.to(self._device)
        self.identity: dict[str, object] = {
            "weights": checkpoint.sha256(),
            "rules": asdict(self._tokenizer.rules),
            "pooling": self._pooling,
            "language": self._language,
        }
        """All that decides about the vectors, but what the backbone runs in."""

    def queries(self, texts: Sequence[str]) -> F32:
        """float32 [N, H]."""
        return self._encode(self._tokenizer.queries(texts))

    def passages(self, texts: Sequence[str]) -> F32:
        """float32 [N, H]."""
        return self._encode(self._tokenizer.passages(texts))

    def _encode(self, texts: Sequence[Tokens]) -> F32:
        vectors_NH = np.empty((len(texts), self.dim), np.float32)
        for batch in plan_batches([len(tokens.ids) for tokens in texts], _TOKEN_BUDGET):
            block = padded([texts[at] for at in batch], self._tokenizer.pad_id, self._device)
            options = {}
            if self._language is not None:
                options["lang_ids"] = torch.full((len(batch),), self._language).to(self._device)
            with torch.inference_mode():
                hidden_BLH = self._backbone(
                    input_ids=block.ids_BL, attention_mask=block.attention_BL, **options
                )[0]
                pooled_BH = self._pooled(hidden_BLH.float(), block.attention_BL)
                unit_BH = torch.nn.functional.normalize(pooled_BH, dim=-1)
            vectors_NH[batch] = unit_BH.cpu().numpy()
        return vectors_NH

    def _pooled(self, hidden_BLH: Tensor, attention_BL: Tensor) -> Tensor:
        if self._pooling == "first":
            return hidden_BLH[:, 0]
        # Of the mean's direction alone: the length goes anyway.
        return (hidden_BLH * attention_BL[..., None]).sum(1)


def pooling_of(folder: Path) -> Pooling:
    """How a checkpoint makes one vector of a text: as its `modules.json` says, or the mean.

    Raises:
        ModelError: it pools in another way, or more layers come behind.
    """
    path = folder / "modules.json"
    modules = parse_json(path) if path.is_file() else []
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    if "Pooling" not in kinds:
        return "mean"
    at = kinds.index("Pooling")
    if behind := [kind for kind in kinds[at + 1 :] if kind != "Normalize"]:
        raise ModelError(f"{path}: {', '.join(behind)} comes behind the pooling: not supported")
    about = Settings.read(folder / str(modules[at].get("path", "")) / "config.json")
    return _mode(about)


def _mode(about: Settings) -> Pooling:
    """From either of the two ways in which sentence-transformers writes it down."""
    prefix = "pooling_mode_"
    flags = sorted(key.removeprefix(prefix) for key in about.values if key.startswith(prefix))
    chosen = [about.text("pooling_mode", "")] if "pooling_mode" in about else []
    chosen = chosen or [name for name in flags if about.flag(prefix + name, False)]
    if len(chosen) != 1 or chosen[0] not in _MODES or not about.flag("include_prompt", True):
        without = "" if about.flag("include_prompt", True) else ", without the prompt"
        raise ModelError(
            f"{about.path} pools by {' and '.join(chosen) or 'nothing'}{without}: give a model "
            "that takes the mean of all its tokens or the first of them"
        )
    return _MODES[chosen[0]]
