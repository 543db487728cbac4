"""PyLate's encode, timed, for `benchmarks/gpu_build.py`: runs in the `pylate` environment.

    python gpu_pylate.py REQUEST.json ANSWER.json

The request names the texts (JSON), the model, the device, the length, and the batch sizes and
precisions to try. The vectors of the fastest try are written for the build, in float16.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pylate.models import ColBERT

WARMUP = 256  # texts, before every try


def main(asked: dict[str, Any]) -> dict[str, Any]:
    """Try every setting; seconds exclude loading the model."""
    texts = json.loads(Path(asked["texts"]).read_text(encoding="utf-8"))
    runs: list[dict[str, Any]] = []
    for precision in asked["precisions"]:
        model = ColBERT(
            asked["model"],
            device=asked["device"],
            document_length=asked["doc_maxlen"],
            model_kwargs={"torch_dtype": getattr(torch, precision)},
        )
        for batch in asked["batches"]:
            encode(model, texts[:WARMUP], batch)
            began = time.perf_counter()
            vectors = encode(model, texts, batch)
            seconds = time.perf_counter() - began
            if not runs or seconds < min(run["seconds"] for run in runs):
                keep(vectors, Path(asked["vectors"]))
            tokens = sum(map(len, vectors))
            runs.append(
                {"precision": precision, "batch": batch, "seconds": seconds, "tokens": tokens}
            )
    return {"runs": runs, "device": device_name(asked["device"]), "torch": torch.__version__}


def encode(model: ColBERT, texts: list[str], batch: int) -> list[np.ndarray]:
    """One array [tokens, D] a text, on the host, as fast-plaid takes them."""
    made = model.encode(texts, batch_size=batch, is_query=False, show_progress_bar=False)
    return [np.asarray(one) for one in made]


def keep(vectors: list[np.ndarray], folder: Path) -> None:
    """Write `tokens.npy` float16 [T, D] and `doclens.npy` int32 [N]."""
    np.save(folder / "tokens.npy", np.concatenate(vectors).astype(np.float16))
    np.save(folder / "doclens.npy", np.array([len(one) for one in vectors], np.int32))


def device_name(device: str) -> str:
    """What it computes on, for the results."""
    return torch.cuda.get_device_name() if device.startswith("cuda") else device


if __name__ == "__main__":
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(main(request)), encoding="utf-8")
