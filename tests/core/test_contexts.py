"""Contexts: what a passage's tokens share is stored once, and search scores as if decoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from colbert_core import Index
from colbert_core.codec import Codec, train_codec
from colbert_core.codec.contexts import encode_contexts, mean_residuals
from colbert_core.codec.tartan import train_levels
from colbert_core.errors import InvalidInput
from colbert_core.index import check_index, component_bytes
from colbert_core.reference.contexts import context_bytes, decode_contexts
from colbert_core.types import F32, I32

DIM = 32


def passages(count: int, shared: float, seed: int = 0) -> tuple[F32, I32]:
    """Unit vectors of passages whose tokens are alike by `shared`, and their lengths."""
    rng = np.random.default_rng(seed)
    doclens_N = rng.integers(1, 20, count).astype(np.int32)
    topics_ND = shared * rng.standard_normal((count, DIM))
    words_CD = 3 * rng.standard_normal((50, DIM))
    tokens = int(doclens_N.sum())
    x_TD = words_CD[rng.integers(0, 50, tokens)] + np.repeat(topics_ND, doclens_N, axis=0)
    x_TD += 0.5 * rng.standard_normal((tokens, DIM))
    unit_TD: F32 = (x_TD / np.linalg.norm(x_TD, axis=1, keepdims=True)).astype(np.float32)
    return unit_TD, doclens_N


def codec_of(x_TD: F32, bits: int, name: str = "tartan") -> Codec:
    return train_codec(x_TD, name=name, bits=bits, centroids=50, total_tokens=len(x_TD))


def error(codec: Codec, x_TD: F32, doclens_N: I32) -> float:
    return float(((codec.decode(codec.compress(x_TD, doclens_N), doclens_N) - x_TD) ** 2).sum())


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_what_is_shared_costs_no_bits(bits: int) -> None:
    """Against the same tokens as passages of one another, whose means say nothing."""
    x_TD, doclens_N = passages(300, shared=1.0)
    codec = codec_of(x_TD, bits)
    stirred = np.random.default_rng(1).permutation(len(x_TD))
    assert error(codec, x_TD, doclens_N) < 0.8 * error(codec, x_TD[stirred], doclens_N)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_a_context_is_the_mean_of_residuals(bits: int) -> None:
    residuals_TD = np.random.default_rng(0).standard_normal((10, 16)).astype(np.float32)
    means_ND = mean_residuals(residuals_TD, np.array([1, 6, 3], np.int32))
    wanted = [residuals_TD[:1], residuals_TD[1:7], residuals_TD[7:]]
    np.testing.assert_allclose(means_ND, [part.mean(axis=0) for part in wanted], atol=1e-6)
    gaussian = np.random.default_rng(1).standard_normal((512, 64)).astype(np.float32)
    levels_W = train_levels(gaussian, bits)
    means_ND = 0.01 * gaussian[:40]
    contexts_NX = encode_contexts(means_ND, bits, levels_W)
    assert contexts_NX.shape == (40, context_bytes(64, bits)) == (40, 8 * bits + 4)
    lost = ((decode_contexts(contexts_NX, bits, levels_W, 64) - means_ND) ** 2).sum()
    assert lost < {1: 0.33, 2: 0.1, 3: 0.03, 4: 0.01}[bits] * (means_ND**2).sum()
    again = encode_contexts(means_ND[7:9], bits, levels_W)  # whatever else is encoded with them
    np.testing.assert_array_equal(again, contexts_NX[7:9])


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("shards", [1, 3])
def test_scores_are_those_of_the_decoded_vectors(bits: int, shards: int, tmp_path: Path) -> None:
    x_TD, doclens_N = passages(120, shared=1.0)
    ids = [str(n) for n in range(120)]
    index = Index.build(tmp_path / "ix", x_TD, ids, bits, doclens=doclens_N, shards=shards)
    assert all(shard.contexts for shard in index.manifest.shards)
    assert not check_index(tmp_path / "ix", deep=True).problems
    assert component_bytes(index.manifest)["contexts"] == 120 * (4 * bits + 4) + shards * 128
    Q_LD = passages(1, 0, seed=9)[0]
    wanted: dict[str, float] = {}
    for shard in index.generation.shards:
        tokens, lengths_N = shard.compressed(0, shard.passages)
        decoded_TD = shard.codec.decode(tokens, lengths_N)
        starts_N = np.cumsum(lengths_N) - lengths_N
        best_NL = np.maximum.reduceat(decoded_TD @ Q_LD.T, starts_N, axis=0)
        wanted |= zip(shard.ids(), best_NL.sum(axis=1).tolist(), strict=True)
    hits = index.search(Q_LD, k=120, exact=True)
    np.testing.assert_allclose(hits.scores, [wanted[one] for one in hits.ids], atol=2e-4)
    shard = index.generation.shards[0]
    _, best_L = shard.kernel.match(shard.codec.rotate(Q_LD), 3)  # what explanations show
    assert abs(float(best_L.sum()) - wanted[shard.id(3)]) < 2e-4


def test_the_papers_codec_has_none(tmp_path: Path) -> None:
    x_TD, doclens_N = passages(30, shared=1.0)
    index = Index.build(tmp_path / "ix", x_TD, codec="colbertv2", doclens=doclens_N)
    assert not (tmp_path / "ix" / "shards" / index.manifest.shards[0].id / "contexts.npy").exists()
    assert index.generation.shards[0].arrays.contexts is None


@pytest.mark.parametrize("lengths", [[3, 4], [8, 0], [9, -1], []])
def test_lengths_that_do_not_fit_are_refused(lengths: list[int]) -> None:
    x_TD, _ = passages(30, shared=0.0)
    codec = codec_of(x_TD, 2)
    with pytest.raises(InvalidInput, match="do not fit 8 vectors, or one of them has none"):
        codec.compress(x_TD[:8], np.array(lengths, np.int32))


def test_a_missing_file_is_found(tmp_path: Path) -> None:
    x_TD, doclens_N = passages(30, shared=0.0)
    index = Index.build(tmp_path / "ix", x_TD, doclens=doclens_N)
    (tmp_path / "ix" / "shards" / index.manifest.shards[0].id / "contexts.npy").unlink()
    problems = check_index(tmp_path / "ix").problems
    assert [problem.file.rsplit("/", 1)[1] for problem in problems] == ["contexts.npy"]
