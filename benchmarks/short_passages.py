"""A corpus of any number of short passages, and a model that is quick to run them through.

The words are those of the docstrings of Python's standard library, as often as they come there, in
passages of 8 to 12; ids are unique, and metadata are a number and a word. The model is a random
BERT of one narrow layer whose vocabulary is those words: its vectors mean nothing, but there are as
many of them as a real model would give, so an index job does with them all that it does with real
ones.
"""

from __future__ import annotations

import ast
import re
import string
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson

LENGTHS = (8, 12)  # words of a passage
DIM = 64
_SPECIAL = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_AT_ONCE = 10_000


def words() -> list[str]:
    """The words of the standard library's docstrings, in order."""
    found: list[str] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                found += re.findall(r"[a-z]{2,20}", (ast.get_docstring(node) or "").lower())
    return found


def write_corpus(path: Path, passages: int, seed: int = 0) -> None:
    """Write JSONL, a passage a line, as a stream."""
    known = np.array(words(), object)
    with path.open("wb") as file:
        for record in _records(known, passages, np.random.default_rng(seed)):
            file.write(orjson.dumps(record) + b"\n")


def _records(
    known: np.ndarray, passages: int, rng: np.random.Generator
) -> Iterator[dict[str, object]]:
    fewest, most = LENGTHS
    for first in range(0, passages, _AT_ONCE):
        count = min(_AT_ONCE, passages - first)
        drawn = known[rng.integers(len(known), size=(count, most))]
        lengths = rng.integers(fewest, most + 1, size=count).tolist()
        years = rng.integers(1990, 2026, size=count).tolist()
        for row in range(count):
            text = " ".join(drawn[row, : lengths[row]])
            metadata = {"year": years[row], "kind": drawn[row, 0]}
            yield {"_id": f"passage-{first + row:09d}", "text": text, "metadata": metadata}


def write_model(folder: Path) -> None:
    """Write a checkpoint that our encoder loads."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder.mkdir(parents=True)
    vocabulary = [*_SPECIAL, *string.punctuation, *string.ascii_lowercase, *sorted(set(words()))]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=DIM,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=DIM,
        max_position_embeddings=40,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(folder)
