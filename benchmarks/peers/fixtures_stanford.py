"""Make the Stanford-format encoder-parity fixtures with colbert-ai itself.

    .venv-peers/colbert/bin/python benchmarks/peers/fixtures_stanford.py OUT_FOLDER

A checkpoint is made, saved and loaded again by the library, then every text is encoded by its
`Checkpoint.query` and `Checkpoint.doc`, in fp32 on the CPU.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from colbert.infra import ColBERTConfig
from colbert.modeling.base_colbert import BaseColBERT
from colbert.modeling.checkpoint import Checkpoint
from tiny_bert import (
    TEXTS,
    check_sensitivity,
    library_versions,
    save_expected,
    write_backbone,
)

CASES: dict[str, dict[str, Any]] = {
    # As colbertv2.0 is configured, but for the lengths.
    "stanford": {"dim": 16, "query_maxlen": 32, "doc_maxlen": 48, "mask_punctuation": True},
    # The switches that change vectors, and the layout of older checkpoints.
    "stanford_attend": {
        "dim": 24,
        "query_maxlen": 20,
        "doc_maxlen": 40,
        "mask_punctuation": True,
        "attend_to_mask_tokens": True,
        "query_token_id": "[unused5]",
        "doc_token_id": "[unused6]",
    },
}
# What `artifact.metadata` says about the machine that wrote it, none of which is the model's.
MACHINE_KEYS = ("meta", "root", "name", "experiment", "checkpoint", "index_root", "gpus", "rank")


def main(out: Path) -> None:
    """Write every case of `CASES` below `out`."""
    out = out.resolve()
    # colbert-ai asks the git repository around the working directory for its state.
    os.chdir(tempfile.gettempdir())
    for seed, (name, settings) in enumerate(CASES.items()):
        make_case(out / name, settings, seed, old_layout=name == "stanford_attend")


def make_case(case: Path, settings: dict[str, Any], seed: int, *, old_layout: bool) -> None:
    """Make one checkpoint and what colbert-ai computes with it."""
    shutil.rmtree(case, ignore_errors=True)
    checkpoint = case / "checkpoint"
    with tempfile.TemporaryDirectory() as scratch:
        backbone = Path(scratch) / "backbone"
        write_backbone(backbone, seed, vocab_txt=old_layout)
        torch.manual_seed(100 + seed)
        BaseColBERT(str(backbone), colbert_config=ColBERTConfig(**settings)).save(str(checkpoint))
        if old_layout:
            shutil.copy(backbone / "vocab.txt", checkpoint)
    scrub_metadata(checkpoint / "artifact.metadata")
    if old_layout:
        use_old_layout(checkpoint)
    encode(case, checkpoint)


def scrub_metadata(path: Path) -> None:
    """Drop host names, paths and times from `artifact.metadata`."""
    metadata = json.loads(path.read_text(encoding="utf-8"))
    for key in MACHINE_KEYS:
        metadata.pop(key, None)
    path.write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")


def use_old_layout(checkpoint: Path) -> None:
    """Weights in `pytorch_model.bin` and the vocabulary in `vocab.txt` only, as before 2023."""
    from safetensors.torch import load_file

    weights = checkpoint / "model.safetensors"
    torch.save(load_file(weights), checkpoint / "pytorch_model.bin")
    weights.unlink()
    (checkpoint / "tokenizer.json").unlink()


def encode(case: Path, checkpoint: Path) -> None:
    """Encode the texts with the library, one by one, and store vectors and kept ids."""
    settings = ColBERTConfig.load_from_checkpoint(str(checkpoint))
    model = Checkpoint(str(checkpoint), colbert_config=settings, verbose=0)
    queries, query_ids, documents, document_ids = [], [], [], []
    for text in TEXTS:
        ids, mask = model.query_tokenizer.tensorize([text])
        queries.append(model.query(ids, mask)[0].numpy())
        if text == TEXTS[4] and not settings.attend_to_mask_tokens:
            check_sensitivity(queries[-1], model.query(ids, torch.ones_like(mask))[0].numpy())
        query_ids.append(ids[0].numpy())
        ids, mask = model.doc_tokenizer.tensorize([text])
        documents.append(model.doc(ids, mask, keep_dims=False)[0].numpy())
        kept = torch.tensor(model.mask(ids, skiplist=model.skiplist)[0])
        document_ids.append(ids[0][kept].numpy())
    save_expected(
        case,
        queries=queries,
        query_ids=query_ids,
        documents=documents,
        document_ids=document_ids,
        about={
            "format": "stanford",
            "made_with": library_versions("colbert-ai", "torch", "transformers"),
            "config": {key: getattr(model.colbert_config, key) for key in IDENTITY},
        },
    )


IDENTITY = (
    "dim",
    "query_maxlen",
    "doc_maxlen",
    "mask_punctuation",
    "attend_to_mask_tokens",
    "query_token_id",
    "doc_token_id",
)

if __name__ == "__main__":
    main(Path(sys.argv[1]))
