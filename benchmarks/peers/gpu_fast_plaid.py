"""fast-plaid's build, timed, for `benchmarks/gpu_build.py`: runs in the `plaid` environment.

    python gpu_fast_plaid.py REQUEST.json ANSWER.json

It takes the vectors that PyLate gave, in float16 on the host, which is how PyLate's own index hands
them to it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fast_plaid.search import FastPlaid

WARMUP = 64  # passages


def main(asked: dict[str, Any]) -> dict[str, Any]:
    """Seconds of `create`, after one on a few passages."""
    folder = Path(asked["vectors"])
    lengths = np.load(folder / "doclens.npy").tolist()
    documents = list(torch.from_numpy(np.load(folder / "tokens.npy")).split(lengths))
    create(folder / "plaid-warmup", documents[:WARMUP], asked)
    began = time.perf_counter()
    create(folder / "plaid", documents, asked)
    seconds = time.perf_counter() - began
    size = sum(path.stat().st_size for path in (folder / "plaid").rglob("*") if path.is_file())
    return {"seconds": seconds, "bytes": size, "torch": torch.__version__}


def create(index: Path, documents: list[torch.Tensor], asked: dict[str, Any]) -> None:
    """Its documented call, at its defaults but for the bits."""
    engine = FastPlaid(index=str(index), device=asked["device"])
    engine.create(documents_embeddings=documents, nbits=asked["bits"])


if __name__ == "__main__":
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(main(request)), encoding="utf-8")
