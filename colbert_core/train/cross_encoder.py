"""A cross-encoder: reads query and passage together, and gives one score. The teacher.

    teacher = CrossEncoder.load("path", device)
    teacher.score([("query", "passage"), …])         # float32 [pairs]

Any encoder of transformers with a sequence-classification head of one label will do;
`start_teacher` gives an encoder without one a new head to be trained.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from colbert_core.errors import ModelError
from colbert_core.text.aliases import locate
from colbert_core.text.batches import plan_batches
from colbert_core.text.checkpoint import read_checkpoint
from colbert_core.text.quiet import quiet_transformers
from colbert_core.train.trainer import TrainSettings
from colbert_core.train.tuple_set import Example
from colbert_core.types import F32

PAIR_MAXLEN = 256
_TOKEN_BUDGET = 8192

Pair = tuple[str, str]


class CrossEncoder:
    """One model in one process."""

    def __init__(
        self, model: Any, tokenizer: Any, device: torch.device, source: str, bf16: bool = False
    ) -> None:
        """Use `load`."""
        self.model = model.to(device)
        self._tokenizer = tokenizer
        self._device = device
        self._source = source
        self._bf16 = bf16
        limit = getattr(model.config, "max_position_embeddings", PAIR_MAXLEN)
        self.maxlen = min(PAIR_MAXLEN, limit)

    @classmethod
    def load(
        cls, model: str | os.PathLike[str], device: torch.device, *, bf16: bool = False
    ) -> CrossEncoder:
        """Load a teacher.

        Args:
            bf16: let `score` run the model in bfloat16.

        Raises:
            ModelError: it cannot be loaded, or does not give one score.
        """
        folder = locate(model)
        loaded, fresh = _load(folder)
        labels = int(loaded.config.num_labels)
        if fresh or labels != 1:
            what = f"has a head of {labels} labels" if not fresh else "has no classification head"
            raise ModelError(
                f"{folder} {what}, and a teacher gives one score: take a cross-encoder with one "
                "label, or train one with `tartan train teacher`"
            )
        return cls(loaded.eval(), _tokenizer(folder), device, str(folder), bf16)

    def score(self, pairs: Sequence[Pair]) -> F32:
        """The logit of each pair, float32, in their order.

        Raises:
            ModelError: a score is not finite.
        """
        scores = np.empty(len(pairs), np.float32)
        lengths = [len(query) + len(passage) for query, passage in pairs]
        # Characters stand for tokens here: about four of them make one.
        for batch in plan_batches([1 + length // 4 for length in lengths], _TOKEN_BUDGET):
            lower = torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16)
            with torch.inference_mode(), lower:
                logits = self.logits([pairs[index] for index in batch])
            scores[batch] = logits.float().cpu().numpy()
        if not np.isfinite(scores).all():
            query, passage = pairs[int(np.flatnonzero(~np.isfinite(scores))[0])]
            raise ModelError(
                f"the teacher in {self._source} gives no finite score for query {query[:80]!r} and "
                f"passage {passage[:80]!r}: its weights are damaged, or overflow"
            )
        return scores

    def logits(self, pairs: Sequence[Pair]) -> Tensor:
        """float [pairs], with gradients where they are enabled."""
        batch = self._tokenizer(
            [query for query, _ in pairs],
            [passage for _, passage in pairs],
            truncation="longest_first",
            max_length=self.maxlen,
            padding=True,
            return_tensors="pt",
            verbose=False,
        ).to(self._device)
        logits: Tensor = self.model(**batch).logits[:, 0]
        return logits


class TeacherLearner:
    """A cross-encoder that learns to tell the positive passage of a tuple from the others."""

    def __init__(self, start: Path, settings: TrainSettings, device: torch.device) -> None:
        torch.manual_seed(settings.seed)
        self.device = device
        self._bf16 = settings.bf16
        self._teacher = CrossEncoder.load(start, device)
        self.module: torch.nn.Module = self._teacher.model
        self.module.requires_grad_(True)
        self._start = start

    def add_gradients(self, examples: Sequence[Example], scale: float) -> Tensor:
        """Softmax cross-entropy of the first passage, a mean over the tuples."""
        pairs = [(example.query, passage) for example in examples for passage in example.passages]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            logits_BW = self._teacher.logits(pairs).float().view(len(examples), -1)
        labels_B = torch.zeros(len(examples), dtype=torch.int64, device=self.device)
        loss = cross_entropy(logits_BW, labels_B)
        (scale * loss).backward()  # type: ignore[no-untyped-call]
        value = loss.detach()
        return torch.stack([value, value, torch.zeros_like(value)])

    def save(self, folder: Path) -> None:
        """Write the model and its tokenizer."""
        with quiet_transformers():
            self._teacher.model.save_pretrained(folder)
            _tokenizer(self._start).save_pretrained(folder)


def start_teacher(model: str | os.PathLike[str], folder: Path, seed: int) -> str:
    """Write the cross-encoder that a run starts from; returns the hash of its weights.

    A head of one label is kept; an encoder without a head gets a new one.

    Raises:
        ModelError: the model cannot be loaded, or has a head of several labels.
    """
    source = locate(model)
    torch.manual_seed(seed)
    loaded, fresh = _load(source, num_labels=1)
    del fresh
    with quiet_transformers():
        loaded.save_pretrained(folder)
        _tokenizer(source).save_pretrained(folder)
    return read_checkpoint(folder).sha256()


def _load(folder: Path, **options: Any) -> tuple[Any, bool]:
    """A model with a head, and whether the head is new."""
    from transformers import AutoModelForSequenceClassification

    try:
        with quiet_transformers():
            model, report = AutoModelForSequenceClassification.from_pretrained(
                str(folder),
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # transformers raises OSError, ValueError, RuntimeError, …
        raise ModelError(
            f"{folder} cannot be loaded as a cross-encoder ({type(error).__name__}: {error}); a "
            "teacher is an encoder with a sequence-classification head of one label"
        ) from error
    if model.config.model_type == "xmod" and model.config.default_language is None:
        raise ModelError(
            f"{folder} reads each language with an adapter of its own, and its config.json names "
            f"no default_language: set it there to one of {', '.join(model.config.languages)}"
        )
    backbone = f"{model.base_model_prefix}."
    return model, any(not name.startswith(backbone) for name in report["missing_keys"])


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    with quiet_transformers():
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
