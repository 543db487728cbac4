"""The codecs: packing, what decodes to what, and colbert-ai's own numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from colbert_core import kernels
from colbert_core.codec import Codec, assign, check_settings, colbertv2, tartan, train_codec
from colbert_core.codec.assign import Assigner
from colbert_core.codec.kmeans import default_centroids, spherical_kmeans
from colbert_core.codec.order import by_likeness
from colbert_core.codec.packing import pack_planes, pack_stanford, unpack_planes, unpack_stanford
from colbert_core.codec.rows import SUM_UNIT, Rows
from colbert_core.codec.sample import MemorySample
from colbert_core.errors import IndexCorrupt, InvalidInput
from colbert_core.reference.residuals import cells_of
from colbert_core.reference.trellis import windows_of
from colbert_core.types import F32

FIXTURES = Path(__file__).parents[1] / "fixtures" / "codec_parity"


def unit(rows: int, dim: int, seed: int = 0) -> F32:
    x = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def sample_of(vectors: F32) -> MemorySample:
    return MemorySample(Rows.of(vectors))


@given(
    bits=st.integers(1, 4),
    eighths=st.integers(1, 16),
    tokens=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_both_layouts_give_back_what_was_packed(
    bits: int, eighths: int, tokens: int, seed: int
) -> None:
    dim = 8 * eighths
    indices = np.random.default_rng(seed).integers(0, 1 << bits, (tokens, dim)).astype(np.uint8)
    for pack, unpack in ((pack_planes, unpack_planes), (pack_stanford, unpack_stanford)):
        packed = pack(indices, bits)
        assert packed.shape == (tokens, dim * bits // 8)
        assert np.array_equal(unpack(packed, bits, dim), indices)


def test_planes_put_dimension_i_plus_jn_into_field_j_of_byte_i() -> None:
    indices = np.zeros((1, 16), np.uint8)
    indices[0, 5] = 3  # n = 4: byte 1, field 1
    assert pack_planes(indices, 2).tolist() == [[0, 3 << 2, 0, 0]]


def round_trip(codec: Codec, vectors: F32) -> F32:
    """What is left of vectors after compression, in passages of ten."""
    doclens = np.full(-(-len(vectors) // 10), 10, np.int32)
    doclens[-1] -= int(doclens.sum()) - len(vectors)
    return codec.decode(codec.compress(vectors, doclens), doclens)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_the_papers_codec_agrees_with_colbert_ai(bits: int) -> None:
    want = np.load(FIXTURES / f"bits{bits}.npz")
    centroids = colbertv2.storable(want["centroids"])
    tables = colbertv2.tables_from(want["bucket_cutoffs"], want["bucket_weights"])
    codec = Codec("colbertv2", bits, None, centroids, tables)
    codes = Assigner(centroids)(Rows.of(want["vectors"]))
    agree = codes == want["codes"]
    assert agree.mean() > 0.98  # eight bits may turn a near tie
    indices = cells_of(want["vectors"] - centroids[want["codes"]], want["bucket_cutoffs"])
    assert np.array_equal(pack_stanford(indices, bits), want["residuals"])
    decoded = round_trip(codec, want["vectors"])
    np.testing.assert_allclose(decoded[agree], want["decoded"][agree], atol=2e-3)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_quantiles_are_the_papers(bits: int) -> None:
    residuals = np.random.default_rng(1).standard_normal((500, 16)).astype(np.float32)
    borders, values = colbertv2.buckets_from(residuals, bits)
    share = np.bincount(np.searchsorted(borders, residuals.ravel()), minlength=1 << bits)
    assert np.ptp(share) <= 0.01 * residuals.size
    assert np.all((values[1:] > borders) & (values[:-1] < borders))


@pytest.mark.parametrize("name", ["tartan", "colbertv2"])
@pytest.mark.parametrize("dim", [8, 24, 128])
def test_decoding_comes_nearer_with_every_bit(name: str, dim: int) -> None:
    vectors = unit(3000, dim)
    cosines = []
    for bits in (1, 2, 3, 4):
        codec = train_codec(vectors, name=name, bits=bits, centroids=16, total_tokens=3000)
        decoded = round_trip(codec, vectors)
        norms = np.linalg.norm(decoded, axis=1)
        cosines.append(float((decoded * vectors).sum(1).mean()))
        if name == "colbertv2":
            np.testing.assert_allclose(norms, 1, atol=1e-5)
        else:  # one of 32 gains, and a context of vectors that share nothing
            assert abs(norms.mean() - 1) < 0.005
            assert norms.std() < 0.04
    assert cosines == sorted(cosines)
    assert cosines[3] > 0.975


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_ours_keeps_more_than_the_papers_at_the_same_bits(bits: int) -> None:
    vectors = unit(4000, 64, seed=bits)
    kept = {}
    for name in ("tartan", "colbertv2"):
        codec = train_codec(vectors, name=name, bits=bits, centroids=32, total_tokens=4000)
        kept[name] = float((round_trip(codec, vectors) * vectors).sum(1).mean())
    assert kept["tartan"] > kept["colbertv2"]


@pytest.mark.parametrize(
    ("bits", "scalar"), [(1, 0.3634), (2, 0.1175), (3, 0.03454), (4, 0.009497)]
)
def test_the_trellis_keeps_more_than_any_scalar_levels(bits: int, scalar: float) -> None:
    """Squared error of Gaussian values, beside the least that 2^bits levels can have (Max 1960): a
    fifth less at 1 bit, more at the others."""
    rng = np.random.default_rng(bits)
    levels = tartan.train_levels(rng.standard_normal((4096, 128)).astype(np.float32), bits)
    values = rng.standard_normal((1000, 128)).astype(np.float32)
    decoded = levels[windows_of(kernels.best_bits(values, bits, levels), bits, 128)]
    assert ((decoded - values) ** 2).mean() < scalar * (0.82 if bits == 1 else 0.71)


@pytest.mark.parametrize("name", ["tartan", "colbertv2"])
def test_a_saved_codec_decodes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    vectors = unit(600, 32)
    codec = train_codec(vectors, name=name, bits=2, centroids=8, total_tokens=600)
    codec.save(tmp_path)
    again = Codec.load(tmp_path)
    doclens = np.full(100, 6, np.int32)
    tokens = codec.compress(vectors, doclens)
    assert np.array_equal(codec.decode(tokens, doclens), again.decode(tokens, doclens))
    assert np.array_equal(again.compress(vectors, doclens).residuals_TB, tokens.residuals_TB)
    other = {"tartan": 4, "colbertv2": 64}[name]
    np.save(tmp_path / "levels.npy", np.zeros(other, np.float32))
    with pytest.raises(
        IndexCorrupt, match=rf"its levels are float32 \[{other}\], and should be .*\[{68 - other}\]"
    ):
        Codec.load(tmp_path)
    (tmp_path / "levels.npy").write_bytes(b"nonsense")
    with pytest.raises(IndexCorrupt, match="codec cannot be read"):
        Codec.load(tmp_path)


def test_training_depends_on_the_seed_alone() -> None:
    vectors = unit(800, 16)
    a, b, c = (
        train_codec(vectors, bits=2, centroids=8, total_tokens=800, seed=seed) for seed in (5, 5, 6)
    )
    assert np.array_equal(a.centroids_CD, b.centroids_CD)
    assert not np.array_equal(a.centroids_CD, c.centroids_CD)


def test_levels_are_an_int8_grid_and_the_rotation_is_orthonormal() -> None:
    sample = np.random.default_rng(0).standard_normal((2000, 8)).astype(np.float32)
    levels = tartan.train_levels(sample, 4)
    grid = levels / (np.abs(levels).max() / 127)
    np.testing.assert_allclose(grid, np.rint(grid), atol=1e-4)
    assert len(levels) == 64
    rotation = tartan.rotation(40, 3)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(40), atol=1e-5)


def test_kmeans_takes_duplicates_and_more_centroids_than_vectors() -> None:
    same = np.repeat(unit(1, 8), 50, axis=0)
    centroids = spherical_kmeans(sample_of(same), 4, seed=0)
    assert np.isfinite(centroids).all()
    assert len(spherical_kmeans(sample_of(unit(3, 8)), 10, seed=0)) == 3


def test_kmeans_finds_the_clusters_that_are_there() -> None:
    centres = np.eye(8, dtype=np.float32)[:4]
    noisy = np.repeat(centres, 200, axis=0) + 0.02 * unit(800, 8)
    noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
    found = spherical_kmeans(sample_of(noisy), 16, seed=1)
    assert ((found @ centres.T).max(axis=0) > 0.99).all()


def clustered(rows: int, dim: int, centres: int, seed: int = 0) -> F32:
    rng = np.random.default_rng(seed)
    x = unit(centres, dim, seed)[rng.integers(0, centres, rows)] + 0.4 * unit(rows, dim, seed + 1)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("count", [1, 31, 32, 33, 500, 2085])
def test_an_order_by_likeness_is_a_permutation_of_its_seed(count: int) -> None:
    vectors = unit(count, 16)
    vectors[: count // 2] = vectors[0]  # duplicates are ordinary
    orders = [by_likeness(vectors, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(np.sort(orders[0]), np.arange(count))
    assert np.array_equal(orders[0], orders[1])
    assert count < 500 or not np.array_equal(orders[0], orders[2])


def test_runs_of_an_order_by_likeness_are_alike() -> None:
    vectors = clustered(2048, 24, 50)
    runs = vectors[by_likeness(vectors, np.random.default_rng(0))].reshape(64, 32, 24)
    tight = np.linalg.norm(runs.mean(axis=1), axis=1).mean()
    loose = np.linalg.norm(vectors.reshape(64, 32, 24).mean(axis=1), axis=1).mean()
    assert tight > 2 * loose


def test_looking_near_finds_almost_every_nearest_centroid() -> None:
    vectors = clustered(20_000, 24, 700)
    start = vectors[:4096]
    start = start[by_likeness(start, np.random.default_rng(0))]
    rows, assigner = Rows.of(vectors), Assigner(start)
    exact, rough = assigner(rows), assigner.roughly(rows)
    assert 0.7 < (exact == rough).mean() < 1  # else it looked at all of them
    near = assigner.again(rows, exact)
    assert np.array_equal(near, exact)
    products = [(vectors * start[codes]).sum(axis=1).mean() for codes in (exact, rough)]
    assert products[1] > products[0] - 0.03


def test_kmeans_that_looks_near_is_as_good_as_one_that_looks_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectors, held = clustered(24_000, 24, 900), clustered(4000, 24, 900, seed=0)
    kept = []
    for near in (assign.NEAR_RUNS, 1 << 20):
        monkeypatch.setattr(assign, "NEAR_RUNS", near)
        centroids = spherical_kmeans(sample_of(vectors), 2048, seed=1)
        kept.append(float((held @ centroids.T).max(axis=1).mean()))
    assert kept[0] > kept[1] - 0.002


def test_default_centroids_follow_the_paper() -> None:
    assert default_centroids(1_300_000) == 16_384
    assert default_centroids(1) == 1
    assert default_centroids(100) == 25


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "pq", "bits": 2, "dim": 8}, "'pq' is unknown; choose one of tartan, colbertv2"),
        ({"name": "tartan", "bits": 5, "dim": 8}, "bits is 5; choose 1, 2, 3 or 4"),
        ({"name": "tartan", "bits": 2, "dim": 12}, "12 dimensions; a multiple of 8"),
        ({"name": "tartan", "bits": 2, "dim": 2048}, "2048 dimensions"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check_settings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("centroids", [1, 3, 128, 129, 1000])
def test_nearest_centroids_are_those_of_plain_numpy(centroids: int) -> None:
    table, vectors = unit(centroids, 32, seed=2), unit(1500, 32, seed=3)
    codes = Assigner(table)(Rows.of(vectors))
    products = vectors @ table.T
    chosen = products[np.arange(1500), codes]
    assert codes.max() < centroids
    np.testing.assert_allclose(chosen, products.max(axis=1), atol=0.01)  # eight bits turn near ties
    exact = Assigner(table)(Rows.of(table))
    assert np.array_equal(exact, np.arange(centroids))


def test_torch_finds_the_nearest_centroids_of_the_kernel() -> None:
    """As on a GPU, on torch's CPU device."""
    vectors, table = clustered(6000, 32, 300), clustered(700, 32, 300, seed=0)
    rows = Rows.of(vectors)
    found = assign.InTorch(table, "cpu")(rows)
    assert found.dtype == np.int32
    assert np.array_equal(found, Assigner(table)(rows))
    parts = [assign.InTorch(table, "cpu")(rows[at]) for at in (slice(0, 7), slice(7, 6000))]
    assert np.array_equal(np.concatenate(parts), found)  # however a sample is shared out


def test_a_sample_cut_in_parts_sums_to_the_same_bits() -> None:
    rows = Rows.of(clustered(5000, 16, 40))
    codes = np.random.default_rng(0).integers(0, 40, 5000).astype(np.int32)
    whole, parts = np.zeros((2, 40, 16), np.int64)
    rows.add_to(whole, codes)
    for cut in (slice(4000, 5000), slice(0, 17), slice(17, 4000)):
        rows[cut].add_to(parts, codes[cut])
    assert np.array_equal(whole, parts)
    exact = np.zeros((40, 16))
    np.add.at(exact, codes, rows.floats().astype(np.float64))
    np.testing.assert_allclose(whole * np.float64(SUM_UNIT), exact, rtol=1e-4, atol=1e-5)
