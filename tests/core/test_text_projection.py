"""PCA on a sample, and the plan of batches: pure functions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from colbert_core.errors import InvalidInput
from colbert_core.text.batches import plan_batches
from colbert_core.text.projection import fit_pca, matrix_sha256


def sample(rows=2000, width=24, rank=6, noise=0.01, seed=0):
    random = np.random.default_rng(seed)
    basis = np.linalg.qr(random.standard_normal((width, rank)))[0]
    vectors = random.standard_normal((rows, rank)) @ basis.T + 1.0 * basis[:, 0]
    vectors += noise * random.standard_normal((rows, width))
    return vectors.astype(np.float32), basis


def test_columns_are_orthonormal_and_ordered():
    vectors, _ = sample()
    matrix = fit_pca(vectors, 10)
    assert matrix.dtype == np.float32
    assert matrix.flags.c_contiguous
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(10), atol=1e-5)
    energy = ((vectors @ matrix) ** 2).sum(axis=0)
    assert (np.diff(energy) <= 0).all()


def test_the_span_of_the_data_is_found():
    vectors, basis = sample()
    matrix = fit_pca(vectors, 6)
    np.testing.assert_allclose(matrix @ (matrix.T @ basis), basis, atol=1e-2)


def test_the_mean_is_not_taken_away():
    vectors = np.tile(np.array([[3.0, 0, 0]], np.float32), (10, 1))
    np.testing.assert_allclose(fit_pca(vectors, 1), [[1], [0], [0]], atol=1e-6)


def test_full_width_keeps_inner_products():
    vectors, _ = sample(rows=50)
    rotated = vectors @ fit_pca(vectors, 24)
    np.testing.assert_allclose(rotated @ rotated.T, vectors @ vectors.T, atol=1e-4)


def test_signs_and_hash_are_the_same_every_time():
    vectors, _ = sample()
    first, second = fit_pca(vectors, 8), fit_pca(vectors.copy(), 8)
    assert np.array_equal(first, second)
    assert (first[np.abs(first).argmax(axis=0), range(8)] > 0).all()
    assert matrix_sha256(first) == matrix_sha256(second)
    assert matrix_sha256(first) != matrix_sha256(first.reshape(8, 24))


@pytest.mark.parametrize("dim", [0, 25, -1])
def test_impossible_dims(dim):
    with pytest.raises(InvalidInput, match=f"dim {dim} is outside 1 … 24"):
        fit_pca(sample()[0], dim)


def test_impossible_samples():
    with pytest.raises(InvalidInput, match="needs a sample"):
        fit_pca(np.empty((0, 8), np.float32), 4)
    with pytest.raises(InvalidInput, match="NaN"):
        fit_pca(np.full((4, 8), np.nan, np.float32), 4)


@given(st.lists(st.integers(2, 512), max_size=200), st.integers(1, 4096))
def test_every_text_is_in_one_batch_within_the_budget(lengths, budget):
    batches = plan_batches(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget


def test_padding_is_small_where_there_are_many_texts():
    lengths = np.random.default_rng(0).integers(10, 300, 2000).tolist()
    padded = sum(
        len(batch) * max(lengths[index] for index in batch) for batch in plan_batches(lengths, 4096)
    )
    assert padded < 1.03 * sum(lengths)
