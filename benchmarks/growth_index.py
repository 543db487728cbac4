"""One index of the growth benchmark: any number of short passages made from real token vectors.

    python growth_index.py VECTORS PASSAGES --out INDEX [--length 32] [--bits 2] [--near-codes]

Passages are windows of real ones. Where there are not enough, the windows are used again, changed:
copy c of a window has all its tokens turned by a small random rotation, the same for all of copy c,
and each token moved by noise of its own. COSINE says how far that takes a token: about as far as
the same word is from itself in another passage, so that a copy competes with its original without
being a duplicate. Vectors are made as the build reads them, so that no size needs space on disk.

With --near-codes a token's centroid is looked for as k-means does at its beginning, near the
nearest mean of a run: one in five misses its nearest. Comparing with every centroid is most of the
work of a large build without a matrix unit. What a search keeps is measured against the same index.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from adapter import PrivatePeak, Vectors

from colbert_core import Index
from colbert_core.codec import Codec
from colbert_core.codec.assign import Assigner

COSINE = 0.85
PASSAGES_AT_ONCE = 1024
NOISE_ROWS = 1 << 16


class GrownPassages:
    """`count` passages of `length` tokens; the same each time that they are iterated.

    Args:
        vectors: real passages.
        count: how many passages to make; a smaller count gives the first of a larger one's, up to
            rounding.
    """

    def __init__(self, vectors: Vectors, count: int, *, length: int, seed: int = 0) -> None:
        self.vectors, self.count, self.length, self.seed = vectors, count, length, seed
        rng = np.random.default_rng(seed)
        starts = [
            np.arange(first, last - length + 1, length)
            for first, last in zip(vectors.offsets, vectors.offsets[1:], strict=False)
        ]
        self.windows = rng.permutation(np.concatenate(starts))
        noise = rng.standard_normal((NOISE_ROWS, vectors.tokens.shape[1]), dtype=np.float32)
        # Half of the way by the rotation, half by the noise, which is at right angles to a token.
        self.noise = noise * ((1 / COSINE - 1) ** 0.5 / np.linalg.norm(noise, axis=1))[:, None]

    def __len__(self) -> int:
        return self.count

    @property
    def copies(self) -> float:
        """How often each window is used."""
        return self.count / len(self.windows)

    def __iter__(self) -> Iterator[np.ndarray]:
        """float32 [length, D] of unit vectors."""
        for copy in range(-(-self.count // len(self.windows))):
            wanted = self.windows[: self.count - copy * len(self.windows)]
            turn = rotation(self.noise.shape[1], (self.seed, copy)) if copy else None
            for first in range(0, len(wanted), PASSAGES_AT_ONCE):
                yield from self._block(wanted[first : first + PASSAGES_AT_ONCE], copy, first, turn)

    def _block(
        self, starts: np.ndarray, copy: int, first: int, turn: np.ndarray | None
    ) -> np.ndarray:
        """float32 [starts, length, D]."""
        rows = (starts[:, None] + np.arange(self.length)).ravel()
        tokens_TD = self.vectors.tokens[rows].astype(np.float32)
        if turn is not None:
            rng = np.random.default_rng((self.seed, copy, first))
            moved = rng.integers(0, NOISE_ROWS - self.length, len(starts))
            tokens_TD = tokens_TD @ turn
            for number, row in enumerate(moved):
                begin = number * self.length
                tokens_TD[begin : begin + self.length] += self.noise[row : row + self.length]
        tokens_TD /= np.sqrt(np.einsum("td,td->t", tokens_TD, tokens_TD))[:, None]
        return tokens_TD.reshape(len(starts), self.length, -1)


def rotation(dim: int, seed: tuple[int, ...]) -> np.ndarray:
    """float32 [dim, dim], orthonormal: a vector and what it is turned to have a mean cosine of
    about √COSINE."""
    drawn = np.random.default_rng(seed).standard_normal((dim, dim))
    skew = drawn - drawn.T
    # Cayley's transform turns a plane of eigenvalue ±iλ by 2·arctan λ, whose cosine is ≈ 1 − 2λ².
    skew *= np.sqrt((1 - np.sqrt(COSINE)) / 2 * dim) / np.linalg.norm(skew)
    return np.linalg.solve(np.eye(dim) - skew, np.eye(dim) + skew).astype(np.float32)


def look_near() -> None:
    """Let codecs look for a token's centroid near the nearest mean of a run alone."""
    near = cached_property(lambda codec: Assigner(codec.centroids_CD).roughly)
    near.__set_name__(Codec, "_assigner")
    setattr(Codec, "_assigner", near)  # noqa: B010


def main() -> None:
    """Build one index; print what it took, as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("vectors", type=Path)
    parser.add_argument("passages", type=int)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--bits", type=int, default=2)
    parser.add_argument("--near-codes", action="store_true")
    args = parser.parse_args()
    if args.near_codes:
        look_near()
    passages = GrownPassages(Vectors.load(args.vectors), args.passages, length=args.length)
    with PrivatePeak() as private:
        wall, cpu = time.perf_counter(), time.process_time()
        Index.build(args.out, passages, bits=args.bits, overwrite=True)
    print(
        json.dumps(
            {
                "copies": passages.copies,
                "tokens": args.passages * args.length,
                "build_seconds": time.perf_counter() - wall,
                "build_cpu_seconds": time.process_time() - cpu,
                "build_peak_private_bytes": private.bytes,
            }
        )
    )


if __name__ == "__main__":
    main()
