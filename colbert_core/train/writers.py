"""Who writes the queries: a causal language model, here, or behind an endpoint (`endpoint.py`).

writer = LocalWriter.load("path", Sampling(), batch=8)
writer.write(["Passage: …\\nQuestion:", …], seed=3)      # an answer to each
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from colbert_core.errors import InvalidInput, ModelError
from colbert_core.text.aliases import locate
from colbert_core.text.checkpoint import weight_files
from colbert_core.text.quiet import quiet_transformers

UNIT = 32
"""Prompts that a writer is given at a time: what is lost at most when the job is killed, and how
often progress is seen, where a model takes seconds for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How an answer is drawn.

    Attributes:
        temperature: 0 takes the likeliest token each time.
        max_tokens: of an answer.
    """

    temperature: float = 0.7
    max_tokens: int = 48

    def check(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            InvalidInput: a value is out of range.
        """
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InvalidInput(f"temperature {self.temperature}: 0 or more is needed")
        if self.max_tokens < 1:
            raise InvalidInput(f"max-tokens {self.max_tokens}: at least 1 is needed")


class Writer(Protocol):
    """Writes an answer to each prompt.

    Attributes:
        identity: all that decides about the answers, but prompts and seed; no secrets.
    """

    identity: Mapping[str, object]

    def check(self, prompt: str) -> None:
        """Refuse, before the work, what `write` would refuse of a prompt as long as this one."""

    def write(self, prompts: Sequence[str], seed: int) -> list[str]:
        """An answer to each prompt; the same ones for a seed, as far as the model can."""


class LocalWriter:
    """A causal model of transformers in this process."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        sampling: Sampling,
        batch: int,
        identity: dict[str, object],
    ) -> None:
        """Use `load`."""
        self._model, self._tokenizer = model, tokenizer
        self._sampling, self._batch = sampling, batch
        self.identity: Mapping[str, object] = identity

    @classmethod
    def load(cls, model: str | os.PathLike[str], sampling: Sampling, batch: int) -> LocalWriter:
        """Load a causal language model, onto the GPU where there is one.

        Args:
            model: path or hub name.
            batch: prompts that are answered at a time, at most `UNIT`.

        Raises:
            ModelError: it cannot be loaded, or is no causal language model.
            InvalidInput: a value is out of range.
        """
        sampling.check()
        if not 1 <= batch <= UNIT:
            raise InvalidInput(f"batch {batch}: give 1 to {UNIT}")
        folder = locate(model)
        loaded, tokenizer = _load(folder)
        tokenizer.padding_side = "left"  # an answer goes on where its prompt ends
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        if tokenizer.pad_token_id is None:
            raise ModelError(f"{folder}: its tokenizer has neither a pad nor an end token")
        identity = {
            "writer": _weights_sha256(folder),
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "batch": batch,
        }
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(loaded.eval().to(device), tokenizer, sampling, batch, identity)

    def check(self, prompt: str) -> None:
        """See `Writer`.

        Raises:
            InvalidInput: prompt and answer are longer than the model reads.
        """
        self._encode([prompt])

    def write(self, prompts: Sequence[str], seed: int) -> list[str]:
        """See `Writer`; a batch's bits depend on what is in it."""
        answers: list[str] = []
        # Drawn from torch's one source of chance, which is left as it was.
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed)
            for start in range(0, len(prompts), self._batch):
                batch = self._encode(prompts[start : start + self._batch])
                told = batch["input_ids"].shape[1]
                ends = [_LineEnds(self._tokenizer, told)]
                written = self._model.generate(**batch, **self._options(), stopping_criteria=ends)
                answers += self._tokenizer.batch_decode(written[:, told:], skip_special_tokens=True)
        return answers

    def _options(self) -> dict[str, Any]:
        drawn = self._sampling.temperature > 0
        options: dict[str, Any] = {
            "max_new_tokens": self._sampling.max_tokens,
            "do_sample": drawn,
            "pad_token_id": self._tokenizer.pad_token_id,
        }
        return options | ({"temperature": self._sampling.temperature} if drawn else {})

    def _encode(self, prompts: Sequence[str]) -> Any:
        chat = bool(self._tokenizer.chat_template)
        texts = [self._in_chat(prompt) for prompt in prompts] if chat else list(prompts)
        batch = self._tokenizer(
            texts,
            padding=True,
            return_tensors="pt",
            return_token_type_ids=False,
            add_special_tokens=not chat,
            verbose=False,
        )
        longest = batch["input_ids"].shape[1]
        limit = getattr(self._model.config, "max_position_embeddings", None)
        if limit is not None and longest + self._sampling.max_tokens > limit:
            raise InvalidInput(
                f"a prompt has {longest} tokens and its answer up to {self._sampling.max_tokens}, "
                f"and the model reads {limit}: give fewer --examples, or a model that reads more"
            )
        return batch.to(self._model.device)

    def _in_chat(self, prompt: str) -> str:
        said = [{"role": "user", "content": prompt}]
        return str(
            self._tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        )


class _LineEnds:
    """Says which answers have their first line: only that one counts (`templates.query_of`), and a
    model that was not taught to end its answers would go on with passages of its own."""

    def __init__(self, tokenizer: Any, told: int) -> None:
        self._tokenizer, self._told = tokenizer, told

    def __call__(self, ids: torch.Tensor, _scores: object, **_: object) -> torch.Tensor:
        """bool [prompts], for the ids of prompts and answers so far."""
        answers = self._tokenizer.batch_decode(ids[:, self._told :], skip_special_tokens=True)
        ended = ["\n" in answer.lstrip() for answer in answers]
        return torch.tensor(ended, device=ids.device)


def _load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet_transformers():
            model, report = AutoModelForCausalLM.from_pretrained(
                str(folder), dtype="auto", output_loading_info=True, **options
            )
            tokenizer = AutoTokenizer.from_pretrained(str(folder), **options)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, …
        raise ModelError(
            f"{folder} cannot be loaded as a causal language model ({type(error).__name__}: "
            f"{error}); give one that transformers.AutoModelForCausalLM loads"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{folder} is no causal language model: its weights lack {len(missing)} tensors "
            f"({', '.join(missing[:3])}, …)"
        )
    return model, tokenizer


def _weights_sha256(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in [*weight_files(folder), *sorted(folder.glob("token*.json"))]:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
