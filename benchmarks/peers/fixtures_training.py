"""Make the training-parity fixture with pylate itself: one distillation step.

    .venv-peers/pylate/bin/python benchmarks/peers/fixtures_training.py \
        tests/fixtures/encoder_parity/pylate/checkpoint tests/fixtures/train_parity

The checkpoint is the tiny one of the encoder's fixtures. One batch goes through
`losses.Distillation` in fp32 on the CPU, without dropout, with and without min-max normalisation;
kept are the loss, the gradients, and the weights after one step of AdamW.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from pylate.losses import Distillation
from pylate.models import ColBERT
from tiny_bert import TEXTS, library_versions

QUERIES = [TEXTS[4], TEXTS[5], TEXTS[11]]
PASSAGES = [
    [TEXTS[13], TEXTS[6], TEXTS[7], TEXTS[8]],
    [TEXTS[9], TEXTS[10], TEXTS[11], TEXTS[14]],
    [TEXTS[12], TEXTS[3], TEXTS[5], TEXTS[13]],
]
SCORES = [[0.9, 0.4, 0.1, 0.6], [3.5, -1.0, 2.0, 0.0], [12.0, 3.0, 11.5, -4.0]]
LEARNING_RATE = 1e-3
KEPT = (
    "1.linear.weight",
    "0.auto_model.encoder.layer.0.attention.self.query.weight",
    "0.auto_model.encoder.layer.1.output.dense.bias",
    "0.auto_model.embeddings.LayerNorm.weight",
)


def main(checkpoint: Path, out: Path) -> None:
    """Write the batch and what pylate computed."""
    out.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    for name, normalize in (("plain", False), ("min_max", True)):
        arrays |= {f"{name}/{key}": value for key, value in step(checkpoint, normalize).items()}
    np.savez_compressed(out / "expected.npz", **arrays)
    about = {
        "made_with": library_versions("pylate", "sentence-transformers", "torch", "transformers"),
        "learning_rate": LEARNING_RATE,
        "tuples": [
            {"query": query, "documents": passages, "scores": scores}
            for query, passages, scores in zip(QUERIES, PASSAGES, SCORES, strict=True)
        ],
    }
    (out / "about.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")


def step(checkpoint: Path, normalize: bool) -> dict[str, np.ndarray]:
    """One step; returns the loss, and gradients and new weights of a few parameters."""
    model = ColBERT(str(checkpoint), device="cpu")
    model.eval()
    loss_function = Distillation(model=model, normalize_scores=normalize)
    queries = model.tokenize(QUERIES, is_query=True)
    passages = model.tokenize([text for row in PASSAGES for text in row], is_query=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, eps=1e-8, weight_decay=0.0)
    loss = loss_function([queries, passages], torch.tensor(SCORES))
    loss.backward()
    parameters = dict(model.named_parameters())
    found = {"loss": loss.detach().numpy()}
    found |= {f"gradient/{name}": parameters[name].grad.numpy().copy() for name in KEPT}
    optimizer.step()
    found |= {f"after/{name}": parameters[name].detach().numpy() for name in KEPT}
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
