"""Compression in torch equals the native kernels': bit for bit from the rotated vectors on, and
from the model's vectors but for what the last bits of a matrix product decide. On a GPU where there
is one, else on torch's CPU device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from test_build_vectors import buckets, odd, steps, trellis_levels, vectors

from colbert_core import _native, reference
from colbert_core.codec import Codec, Compressed, train_codec
from colbert_core.codec.on_device import TorchCompressor
from colbert_core.reference.trellis import best_windows as reference_windows
from colbert_core.torch_kernels import nearest, open_device
from colbert_core.torch_kernels.quantise import (
    ColbertSteps,
    TartanSteps,
    quantise_colbertv2,
    quantise_tartan,
)
from colbert_core.torch_kernels.trellis import best_windows, pack_windows
from colbert_core.types import F32, I8, I32, AnyArray
from workers.encoder import project

DEVICE = "cuda" if torch.cuda.is_available() else "torch:cpu"
DIMS = [8, 24, 128, 192, 1024]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Arrays of these sizes are not worth torch's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def device() -> torch.device:
    return open_device(DEVICE)


def there(array: AnyArray) -> torch.Tensor:
    return torch.tensor(array, device=device())


def assert_equal(found: torch.Tensor, expected: AnyArray) -> None:
    array = found.cpu().numpy()
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)


def assert_all_equal(found: Sequence[torch.Tensor], expected: Sequence[AnyArray]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert_equal(one, other)


@pytest.mark.parametrize("dim", DIMS)
def test_int8_rows(dim: int) -> None:
    rng = np.random.default_rng(dim)
    for x_TD in (vectors(rng, 300, dim), odd(rng, dim), vectors(rng, 0, dim)):
        assert_all_equal(nearest.to_int8(there(x_TD)), reference.to_int8(x_TD))


@pytest.fixture(params=["int8", "float32"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What products are made in; float32 is for devices that do not multiply int8."""
    if request.param == "float32":
        monkeypatch.setattr(nearest, "integer_products_work", lambda *_: False)
    elif not nearest.integer_products_work(device(), 128):
        pytest.skip("this device does not multiply int8 matrices")
    return str(request.param)


def int8_rows(rng: np.random.Generator, rows: int, dim: int, most: int = 127) -> I8:
    return rng.integers(-most, most + 1, (rows, dim)).astype(np.int8)


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("dim", [8, 24, 128, 1024])
@pytest.mark.parametrize("centroids", [1, 31, 32, 33, 700])
def test_codes_are_those_of_the_native_kernel(centroids: int, dim: int) -> None:
    rng = np.random.default_rng([centroids, dim])
    codes_CD = int8_rows(rng, centroids, dim)
    kernel, first = _native.NearestCentroid(codes_CD), nearest.TorchNearest(there(codes_CD))
    small = nearest.TorchNearest(there(codes_CD), budget=1)  # a block is 32 centroids
    assert first.centroids == centroids
    for tokens in (0, 1, 17, 100):
        values_TD = int8_rows(rng, tokens, dim)
        expected_T = kernel.assign(values_TD, 1)
        assert_equal(first.assign(there(values_TD)), expected_T)
        assert_equal(small.assign(there(values_TD)), expected_T)


@pytest.mark.usefixtures("products")
def test_of_equal_centroids_the_first_wins_in_every_block() -> None:
    rng = np.random.default_rng(0)
    codes_CD = int8_rows(rng, 300, 8, most=1)  # most of them are there more than once
    values_TD = np.concatenate([int8_rows(rng, 100, 8, most=1), np.zeros((5, 8), np.int8)])
    extremes_TD = np.full((2, 8), 127, np.int8) * np.array([[1], [-1]], np.int8)
    for x_TD in (values_TD, extremes_TD):
        expected_T = _native.NearestCentroid(codes_CD).assign(x_TD, 1)
        for budget in (1, 1 << 20):
            found = nearest.TorchNearest(there(codes_CD), budget).assign(there(x_TD))
            assert_equal(found, expected_T)


@pytest.mark.usefixtures("products")
def test_more_vectors_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "_ROWS", 64)
    rng = np.random.default_rng(1)
    codes_CD, values_TD = int8_rows(rng, 90, 16), int8_rows(rng, 200, 16)
    expected_T = _native.NearestCentroid(codes_CD).assign(values_TD, 1)
    assert_equal(nearest.TorchNearest(there(codes_CD)).assign(there(values_TD)), expected_T)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("dim", [8, 24, 128, 1024])
@pytest.mark.parametrize("tokens", [0, 1, 33])
def test_bits_along_the_trellis(tokens: int, dim: int, bits: int) -> None:
    rng = np.random.default_rng([bits, dim, tokens])
    levels_W = rng.standard_normal(64).astype(np.float32)
    values_TD = rng.standard_normal((tokens, dim)).astype(np.float32)
    windows_TD = best_windows(there(values_TD), bits, there(levels_W))
    expected = reference.best_bits(values_TD, bits, levels_W)
    assert_equal(pack_windows(windows_TD, bits), expected)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_of_equal_paths_the_same_one_wins(bits: int) -> None:
    rng = np.random.default_rng(bits)
    values_TD = rng.integers(-2, 3, (200, 24)).astype(np.float32)
    values_TD[0], values_TD[1] = 0, 1e18
    for levels_W in (rng.integers(-2, 3, 64).astype(np.float32), np.ones(64, np.float32)):
        found = best_windows(there(values_TD), bits, there(levels_W))
        assert_equal(found, reference_windows(values_TD, bits, levels_W))


def tartan_steps(levels_W: F32, ratios: F32, gains: F32) -> TartanSteps:
    middles = [(steps[1:] + steps[:-1]) / np.float32(2) for steps in (ratios, gains)]
    return TartanSteps(*map(there, (levels_W, ratios, *middles)))


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("dim", DIMS)
def test_residuals(bits: int, dim: int) -> None:
    """Also tokens that are their centroid, zeros, extremes, and values on the border of two."""
    rng = np.random.default_rng([bits, dim])
    centroids_CD = vectors(rng, 20, dim)
    centroids_CD[3] = 0
    codes_T = rng.integers(0, 20, 300).astype(np.int32)
    near_TD = centroids_CD[codes_T] + 0.5 * vectors(rng, 300, dim)
    near_TD[:40] = centroids_CD[codes_T[:40]]
    odd_TD = odd(rng, dim)
    values, cutoffs = buckets(rng, bits)
    near_TD[40:80] += cutoffs[0]
    levels_W, (ratios, gains) = trellis_levels(rng), steps(rng)
    tartan = tartan_steps(levels_W, ratios, gains)
    colbert = ColbertSteps(there(values), there(cutoffs), 0.5, 127.5)
    for x_TD, codes in ((near_TD, codes_T), (odd_TD, codes_T[: len(odd_TD)])):
        asked, on_device = (
            (x_TD, codes, centroids_CD, bits),
            (there(x_TD), there(centroids_CD[codes])),
        )
        expected = _native.quantise_tartan(*asked, levels_W, ratios, gains)
        assert_all_equal(quantise_tartan(*on_device, bits, tartan), expected)
        expected = _native.quantise_colbertv2(*asked, values, cutoffs, 0.5, 127.5)
        assert_all_equal(quantise_colbertv2(*on_device, bits, colbert), expected)


def clustered(rng: np.random.Generator, tokens: int, dim: int) -> F32:
    """Unit vectors around 100 directions, as the codec takes them."""
    centres = vectors(rng, 100, dim)
    return project(centres[rng.integers(0, 100, tokens)] + 0.6 * vectors(rng, tokens, dim), None)


@cache
def world(name: str, bits: int, dim: int) -> tuple[Codec, F32]:
    """A codec, and vectors that it has not seen."""
    rng = np.random.default_rng([bits, dim])
    x_TD = clustered(rng, 4000, dim)
    codec = train_codec(x_TD[:2000], name=name, bits=bits, centroids=200, total_tokens=4000)
    return codec, x_TD[2000:]


def cut(tokens: int) -> I32:
    """Passages of 1 to 7 tokens, int32 [N], with so many in all."""
    lengths = np.resize(np.array([3, 7, 1, 5], np.int32), tokens)
    ends = np.minimum(np.cumsum(lengths), tokens)
    doclens_N = np.diff(ends, prepend=0)
    return doclens_N[doclens_N > 0].astype(np.int32)


def assert_nearly_equal(codec: Codec, found: Compressed, expected: Compressed, x_TD: F32) -> None:
    """Codes, bytes and error: a rounding of the rotated vectors moves few of them, and no error."""
    assert found.codes_T.dtype == np.int32
    assert found.residuals_TB.dtype == found.scales_T.dtype == np.uint8
    assert found.residuals_TB.shape == expected.residuals_TB.shape
    assert (found.codes_T == expected.codes_T).mean() >= 0.998
    assert (found.residuals_TB == expected.residuals_TB).mean() >= 0.997
    assert (found.scales_T == expected.scales_T).mean() >= 0.997
    assert found.contexts_NX.shape == expected.contexts_NX.shape
    if expected.contexts_NX.size:  # one bit that is turned turns those behind it
        assert (found.contexts_NX == expected.contexts_NX).mean() >= 0.9
    doclens_N = cut(len(x_TD))
    decoded = (codec.decode(one, doclens_N) for one in (found, expected))
    errors = [float(((one_TD - x_TD) ** 2).sum()) for one_TD in decoded]
    assert errors[0] <= errors[1] * 1.001


@pytest.mark.parametrize("name", ["tartan", "colbertv2"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("dim", [16, 96, 128])
def test_a_codec_on_a_device(dim: int, bits: int, name: str) -> None:
    codec, x_TD = world(name, bits, dim)
    given_TD = there(x_TD)
    found = TorchCompressor(codec, device()).compress(given_TD, cut(len(x_TD)))
    assert_nearly_equal(codec, found, codec.compress(x_TD, cut(len(x_TD))), x_TD)
    assert_equal(given_TD, x_TD)  # as it was


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_products_that_are_rounded_otherwise_cost_nothing(bits: int) -> None:
    """What a GPU may do to the rotation; here it is done in float64, and differs everywhere."""
    codec, x_TD = world("tartan", bits, 96)
    assert codec.rotation_DD is not None
    rotated_TD = (x_TD.astype(np.float64) @ codec.rotation_DD.astype(np.float64)).astype(np.float32)
    assert (rotated_TD != codec.rotate(x_TD)).mean() > 0.3
    unrotated = TorchCompressor(replace(codec, rotation_DD=None), device())
    found = unrotated.compress_units(there(rotated_TD), cut(len(x_TD)))
    assert_nearly_equal(codec, found, codec.compress(x_TD, cut(len(x_TD))), x_TD)


@pytest.mark.parametrize("name", ["tartan", "colbertv2"])
@pytest.mark.parametrize("tokens", [0, 1, 2, 31])
def test_few_tokens_and_slices(tokens: int, name: str) -> None:
    """A budget so small that every passage is a slice of its own decides nothing otherwise."""
    codec, x_TD = world(name, 2, 16)
    x_TD = x_TD[:tokens]
    expected = codec.compress(x_TD, cut(tokens))
    for budget in (1, 1 << 30):
        found = TorchCompressor(codec, device(), budget=budget).compress(there(x_TD), cut(tokens))
        assert len(found) == tokens
        assert found.residuals_TB.shape == (tokens, 4)
        np.testing.assert_array_equal(found.codes_T, expected.codes_T)
        assert (found.residuals_TB != expected.residuals_TB).sum() <= 4


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_projection_and_length(dtype: type) -> None:
    """What the model gives is projected and normalised as the processor does it."""
    codec, _ = world("tartan", 2, 16)
    rng = np.random.default_rng(3)
    matrix = np.linalg.qr(rng.standard_normal((48, 48)))[0][:, :16].astype(np.float32)
    raw_TD = (3 * vectors(rng, 500, 48)).astype(dtype)
    raw_TD[7] = 0
    compressor = TorchCompressor(codec, device(), matrix.copy())
    expected_TD = project(raw_TD, matrix)
    given_TM = there(raw_TD)
    units_TD = compressor.unit_vectors(given_TM).cpu().numpy()
    np.testing.assert_allclose(units_TD, expected_TD, atol=1e-6)
    assert_equal(given_TM, raw_TD)  # as it was
    found = compressor.compress(there(raw_TD), cut(500))
    expected = codec.compress(expected_TD, cut(500))
    assert_nearly_equal(codec, found, expected, expected_TD)


def test_the_same_vectors_give_the_same_bytes() -> None:
    codec, x_TD = world("tartan", 3, 96)
    doclens_N = cut(len(x_TD))
    first, again = (
        TorchCompressor(codec, device()).compress(there(x_TD), doclens_N) for _ in range(2)
    )
    for name in ("codes_T", "residuals_TB", "scales_T", "contexts_NX"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))


def test_one_centroid_and_vectors_that_are_alike() -> None:
    same_TD = np.repeat(vectors(np.random.default_rng(0), 1, 8), 40, axis=0)
    for name in ("tartan", "colbertv2"):
        codec = train_codec(same_TD, name=name, bits=1, centroids=1, total_tokens=40)
        found, expected = (
            TorchCompressor(codec, device()).compress(there(same_TD), cut(40)),
            codec.compress(same_TD, cut(40)),
        )
        np.testing.assert_array_equal(found.codes_T, expected.codes_T)
        decoded = [codec.decode(one, cut(40)) for one in (found, expected)]
        np.testing.assert_allclose(*decoded, atol=1e-5)
