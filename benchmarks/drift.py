"""What drift costs: a codec trained on one collection, and passages of others compressed with it.

    python benchmarks/drift.py BASE OTHER... [--dim 128] [--bits 2]

Each argument is a folder with `passages.npy`, float [T, model's dim], and `doclens.npy`, [N]. Of
each other collection, and of the half of the base that the codec has not seen, it prints

    true     mean residual of the vectors before compression, over the base's
    stored   the same of the stored tokens, which is what `colbert_core.drift` measures
    overlap  of the ten best by exhaustive search, compressed with uncompressed, under this codec
    own      the same under a codec that was trained on that collection

Vectors are reduced by the base's PCA. Queries are some tokens of a passage, with noise.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from colbert_core import Index
from colbert_core.codec import Codec, train_codec
from colbert_core.drift import residual_norm
from colbert_core.text.projection import fit_pca

PASSAGES, QUERIES, NOISE = 1400, 100, 0.3
Passages = list[np.ndarray]


def load(folder: Path, matrix: np.ndarray | None, part: slice) -> Passages:
    """Some passages of a collection as unit vectors."""
    doclens = np.load(folder / "doclens.npy")
    ends = np.cumsum(doclens)
    vectors = np.load(folder / "passages.npy", mmap_mode="r")
    made = []
    for n in range(len(doclens))[part][:PASSAGES]:
        x = np.asarray(vectors[ends[n] - doclens[n] : ends[n]], np.float32)
        x = x if matrix is None else x @ matrix
        made.append(x / np.linalg.norm(x, axis=1, keepdims=True))
    return made


def queries_of(passages: Passages, rng: np.random.Generator) -> Passages:
    """Pseudo-queries of 4 to 24 tokens."""
    made = []
    for _ in range(QUERIES):
        x = passages[rng.integers(len(passages))]
        x = x[rng.permutation(len(x))[: rng.integers(4, 25)]]
        x = x + NOISE * rng.standard_normal(x.shape).astype(np.float32) / x.shape[1] ** 0.5
        made.append((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32))
    return made


def best(passages: Passages, query: np.ndarray) -> set[int]:
    """The ten best by MaxSim over uncompressed vectors."""
    starts = np.concatenate([[0], np.cumsum([len(x) for x in passages])[:-1]])
    scores = np.maximum.reduceat(np.concatenate(passages) @ query.T, starts, axis=0).sum(axis=1)
    return set(np.argsort(-scores)[:10].tolist())


def measure(codec: Codec, passages: Passages) -> tuple[float, float, float]:
    """(mean true residual, mean stored residual, overlap) of passages added under a codec."""
    rotated = codec.rotate(np.concatenate(passages))
    codes = codec.compress(np.concatenate(passages), lengths_of(passages)).codes_T
    true = float(np.linalg.norm(rotated - codec.centroids_CD[codes], axis=1).mean())
    with tempfile.TemporaryDirectory() as folder:
        index = written(Path(folder) / "ix", codec, passages)
        stored = residual_norm(index.generation.shards)
        found = [
            len({int(i) for i in index.search(q, 10, exact=True).ids} & best(passages, q)) / 10
            for q in queries_of(passages, np.random.default_rng(0))
        ]
    return true, stored, float(np.mean(found))


def lengths_of(passages: Passages) -> np.ndarray:
    """Tokens of each passage, int32 [N]."""
    return np.array([len(x) for x in passages], np.int32)


def written(path: Path, codec: Codec, passages: Passages) -> Index:
    """An index of passages under a codec."""
    from colbert_core.index import ShardWriter, publish, write_codec

    write_codec(path, "codec", codec)
    with ShardWriter(path, "s0", codec) as writer:
        doclens = lengths_of(passages)
        ids = [str(n) for n in range(len(passages))]
        writer.add(codec.compress(np.concatenate(passages), doclens), doclens, ids)
        entry = writer.finish()
    publish(path, "g000001-000000", "codec", codec, [entry])
    return Index.open(path)


def trained(passages: Passages, bits: int) -> Codec:
    vectors = np.concatenate(passages)
    return train_codec(vectors, bits=bits, total_tokens=len(vectors))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("base", type=Path)
    parser.add_argument("others", type=Path, nargs="+")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--bits", type=int, default=2)
    args = parser.parse_args()
    matrix = fit_pca(np.concatenate(load(args.base, None, slice(0, None, 2))), args.dim)
    base = load(args.base, matrix, slice(0, None, 2))
    codec = trained(base, args.bits)
    collections = {f"{args.base.name}, unseen": load(args.base, matrix, slice(1, None, 2))}
    collections |= {folder.name: load(folder, matrix, slice(None)) for folder in args.others}
    true0, stored0, overlap0 = measure(codec, base)
    print(f"{args.base.name}: residuals {true0:.4f}, stored {stored0:.4f}, overlap {overlap0:.3f}")
    print("collection | true | stored | overlap | own")
    for name, passages in collections.items():
        true, stored, overlap = measure(codec, passages)
        own = measure(trained(passages, args.bits), passages)[2]
        line = f"{true / true0:.3f} | {stored / stored0:.3f} | {overlap:.3f} | {own:.3f}"
        print(f"{name} | {line}", flush=True)


if __name__ == "__main__":
    main()
