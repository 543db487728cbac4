"""Make the PyLate-format encoder-parity fixtures with pylate itself.

    .venv-peers/pylate/bin/python benchmarks/peers/fixtures_pylate.py OUT_FOLDER

Each checkpoint is made, saved and loaded again by the library, then every text is encoded by its
`ColBERT.encode`, in fp32 on the CPU.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from pylate.models import ColBERT, Dense
from sentence_transformers.models import Transformer
from tiny_bert import (
    HIDDEN,
    TEXTS,
    check_sensitivity,
    library_versions,
    save_expected,
    write_backbone,
)
from torch import nn

LENGTHS = {"query_length": 32, "document_length": 48}

CASES: dict[str, dict[str, Any]] = {
    # PyLate's defaults: prefixes that are added tokens with a trailing space, expansion on.
    "pylate": LENGTHS,
    # Tokens of the vocabulary as prefixes, expansion attended to, two Dense layers.
    "pylate_two_dense": {
        "query_prefix": "[unused0]",
        "document_prefix": "[unused1]",
        "attend_to_expansion_tokens": True,
        "query_length": 20,
        "document_length": 40,
    },
    # No prefixes, no expansion, a skiplist of words. One word is not in the vocabulary: PyLate maps
    # it to the unknown token, so unknown tokens are skipped too.
    "pylate_no_expansion": {
        **LENGTHS,
        "query_prefix": "",
        "document_prefix": "",
        "do_query_expansion": False,
        "skiplist_words": ["the", "and", ",", "notinthevocabulary"],
    },
}


def main(out: Path) -> None:
    """Write every case of `CASES` below `out`."""
    for seed, (name, settings) in enumerate(CASES.items(), start=20):
        case = out / name
        shutil.rmtree(case, ignore_errors=True)
        with tempfile.TemporaryDirectory() as scratch:
            backbone = Path(scratch) / "backbone"
            write_backbone(backbone, seed)
            torch.manual_seed(100 + seed)
            modules = [Transformer(str(backbone)), *projections(name)]
            made = ColBERT(modules=modules, device="cpu", **settings)
            made.save_pretrained(str(case / "checkpoint"), create_model_card=False)
        encode(case)


def projections(name: str) -> list[Dense]:
    """The Dense layers of a case; wide weights, so that each of their parts shows."""
    if name == "pylate":
        layers = [Dense(HIDDEN, 16, bias=False)]
    elif name == "pylate_two_dense":
        layers = [
            Dense(HIDDEN, 40, bias=True, activation_function=nn.Tanh()),
            Dense(40, 24, bias=False, use_residual=True),
        ]
    else:
        layers = [Dense(HIDDEN, HIDDEN, bias=True, use_residual=True), Dense(HIDDEN, 16)]
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.3)
    return layers


def encode(case: Path) -> None:
    """Encode the texts with the library and store vectors and kept ids."""
    model = ColBERT(str(case / "checkpoint"), device="cpu")
    kept: dict[bool, list[np.ndarray]] = {}
    vectors: dict[bool, list[np.ndarray]] = {}
    for is_query in (True, False):
        vectors[is_query] = model.encode(TEXTS, is_query=is_query, show_progress_bar=False)
        kept[is_query] = [kept_ids(model, text, is_query) for text in TEXTS]
    if model.do_query_expansion and not model.attend_to_expansion_tokens:
        model.attend_to_expansion_tokens = True
        wrong = model.encode([TEXTS[4]], is_query=True, show_progress_bar=False)[0]
        check_sensitivity(vectors[True][4], wrong)
        model.attend_to_expansion_tokens = False
    save_expected(
        case,
        queries=vectors[True],
        query_ids=kept[True],
        documents=vectors[False],
        document_ids=kept[False],
        about={
            "format": "pylate",
            "made_with": library_versions(
                "pylate", "sentence-transformers", "torch", "transformers"
            ),
            "config": {key: getattr(model, key) for key in IDENTITY},
        },
    )


def kept_ids(model: ColBERT, text: str, is_query: bool) -> np.ndarray:
    """The vocabulary ids whose vectors `encode` returns for `text`."""
    raw = model.encode([text], is_query=is_query, show_progress_bar=False, output_value=None)
    ids, mask = np.asarray(raw["input_ids"][0]), np.asarray(raw["masks"][0]).astype(bool)
    return np.asarray(ids[mask])


IDENTITY = (
    "query_prefix",
    "document_prefix",
    "query_length",
    "document_length",
    "do_query_expansion",
    "attend_to_expansion_tokens",
    "skiplist_words",
)

if __name__ == "__main__":
    main(Path(sys.argv[1]))
