"""Unit files: what is written is read back, whole, and with the same bytes each time."""

from __future__ import annotations

import numpy as np
import pytest

from colbert_core.codec import Compressed
from workers.sample_worker import project
from workers.shard_builder import _cut
from workers.units import Staging, Unit, UnitChunk, UnitSlice, UnitVectors, write_whole


@pytest.fixture
def staging(tmp_path):
    staging = Staging(tmp_path)
    staging.create()
    return staging


def chunk(doclens, seed=0):
    rng = np.random.default_rng(seed)
    tokens = sum(doclens)
    compressed = Compressed(
        rng.integers(0, 99, tokens).astype(np.int32),
        rng.integers(0, 256, (tokens, 4)).astype(np.uint8),
        rng.integers(0, 256, tokens).astype(np.uint8),
        rng.integers(0, 256, (len(doclens), 8)).astype(np.uint8),
    )
    return UnitChunk(compressed, np.array(doclens, np.int32), 1)


def test_a_chunk_is_read_back_and_its_bytes_repeat(staging):
    written = chunk([2, 3])
    staging.write_chunk(7, written)
    first = staging.chunk_path(7).read_bytes()
    staging.write_chunk(7, written)
    assert staging.chunk_path(7).read_bytes() == first
    read = staging.chunk(7)
    np.testing.assert_array_equal(read.tokens.codes_T, written.tokens.codes_T)
    np.testing.assert_array_equal(read.tokens.residuals_TB, written.tokens.residuals_TB)
    np.testing.assert_array_equal(read.tokens.scales_T, written.tokens.scales_T)
    np.testing.assert_array_equal(read.tokens.contexts_NX, written.tokens.contexts_NX)
    np.testing.assert_array_equal(staging.doclens(7), [2, 3])
    assert read.truncated == 1


def test_kept_vectors(staging):
    assert staging.vectors(0) is None
    vectors_TD = np.arange(8, dtype=np.float16).reshape(4, 2)
    staging.write_vectors(0, UnitVectors(vectors_TD, np.array([1, 3], np.int32), 0))
    read = staging.vectors(0)
    np.testing.assert_array_equal(read.vectors_TD, vectors_TD)
    assert read.vectors_TD.dtype == np.float16


def test_a_write_that_fails_leaves_no_file(tmp_path):
    def write(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "file", write)
    assert list(tmp_path.iterdir()) == []


def test_a_chunk_is_cut_at_passages():
    whole = chunk([2, 3, 1, 4])
    cut = _cut(whole, UnitSlice(0, 1, 3))
    np.testing.assert_array_equal(cut.doclens_N, [3, 1])
    np.testing.assert_array_equal(cut.tokens.codes_T, whole.tokens.codes_T[2:6])
    np.testing.assert_array_equal(cut.tokens.residuals_TB, whole.tokens.residuals_TB[2:6])
    np.testing.assert_array_equal(cut.tokens.scales_T, whole.tokens.scales_T[2:6])
    np.testing.assert_array_equal(cut.tokens.contexts_NX, whole.tokens.contexts_NX[1:3])


def test_projected_vectors_are_unit_vectors():
    rng = np.random.default_rng(0)
    vectors_TD = rng.normal(size=(5, 8)).astype(np.float16)
    basis = np.linalg.qr(rng.normal(size=(8, 4)))[0].astype(np.float32)
    for projection in (None, basis):
        out = project(vectors_TD, projection)
        assert out.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(out, axis=1), 1, atol=1e-6)
    assert project(np.zeros((1, 8), np.float16), None).tolist() == [[0.0] * 8]


def test_a_unit_names_itself():
    unit = Unit(12, 1024, 80, 9999, "a", "x" * 200)
    assert str(unit).startswith("unit 12 (passages 1,024 to 1,103, ids 'a' to 'xxx")
    assert len(str(unit)) < 200
