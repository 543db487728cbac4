"""faiss as an independent oracle: probing, assignment and k-means done by someone else's code."""

import numpy as np
import pytest

from colbert_core import kernels
from colbert_core.codec.assign import Assigner
from colbert_core.codec.kmeans import spherical_kmeans
from colbert_core.codec.rows import Rows
from colbert_core.codec.sample import MemorySample
from colbert_core.reference.arithmetic import COARSE_MOST

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def faiss():
    """The module, on one thread; its SWIG types warn when they are imported."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import faiss

        faiss.omp_set_num_threads(1)
        return faiss


def unit(rng, count, dim, near=None, spread=0.5):
    """Random unit vectors, around the rows of `near` where it is given."""
    rows = rng.standard_normal((count, dim))
    if near is not None:
        rows = near[rng.integers(len(near), size=count)] + spread * rows / dim**0.5
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def int8_rows(rows, most=127):
    scales = (np.abs(rows).max(axis=1) / most).astype(np.float32)
    return np.rint(rows / scales[:, None]).astype(np.int8), scales


@pytest.mark.parametrize("dim", [24, 128])
def test_probe_finds_what_a_flat_index_finds(faiss, dim):
    """Over the very numbers that our table and its queries hold, so that only ties may differ."""
    rng = np.random.default_rng(dim)
    codes_CD, scales_C = int8_rows(unit(rng, 3000, dim))
    queries_i8, query_scales = int8_rows(unit(rng, 17, dim), COARSE_MOST)
    flat = faiss.IndexFlatIP(dim)
    flat.add(codes_CD * scales_C[:, None])
    expected_LP, _ = flat.search(queries_i8 * query_scales[:, None], 32)

    table = kernels.CentroidTable(codes_CD, scales_C)
    ids_LP, scores_LP = table.probe(queries_i8 * query_scales[:, None], 32)

    np.testing.assert_allclose(scores_LP, expected_LP, rtol=1e-5, atol=1e-6)
    assert all(len(set(row)) == 32 for row in ids_LP.tolist())


def test_assignment_is_the_nearest_by_a_flat_index(faiss):
    rng = np.random.default_rng(3)
    centroids_CD = unit(rng, 500, 64)
    vectors_TD = unit(rng, 4000, 64, near=centroids_CD)
    flat = faiss.IndexFlatIP(64)
    flat.add(centroids_CD)
    best_T2, ids_T2 = flat.search(vectors_TD, 2)

    codes_T = Assigner(centroids_CD)(Rows.of(vectors_TD))

    # Eight bits a component: two centroids may only be taken for one another within 1 %.
    clear_T = best_T2[:, 0] - best_T2[:, 1] > 0.01
    assert clear_T.mean() > 0.9
    np.testing.assert_array_equal(codes_T[clear_T], ids_T2[clear_T, 0])


def test_kmeans_is_as_good_as_faiss_at_the_same_number_of_iterations(faiss):
    rng = np.random.default_rng(4)
    sample_SD = unit(rng, 6000, 32, near=unit(rng, 200, 32))
    theirs = faiss.Kmeans(32, 128, niter=6, spherical=True, seed=1)
    theirs.train(sample_SD)

    ours_CD = spherical_kmeans(MemorySample(Rows.of(sample_SD)), 128, seed=0)

    def mean_cosine(centroids_CD):
        return float((sample_SD @ np.asarray(centroids_CD).T).max(axis=1).mean())

    assert mean_cosine(ours_CD) > mean_cosine(theirs.centroids) - 0.01
