"""Rotation into the codec's space: the native kernel gives the reference's bits."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from colbert_core import _native, reference
from colbert_core.codec import tartan


@cache  # making one of 1,024 dimensions takes seconds
def rotation(dim: int) -> np.ndarray:
    return tartan.rotation(dim, seed=dim)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dim", [8, 24, 128, 192, 1024])
@pytest.mark.parametrize("tokens", [0, 1, 2, 3, 4, 5, 7, 32, 33])
def test_rotated_vectors_are_the_references(tokens: int, dim: int) -> None:
    rng = np.random.default_rng(tokens * dim)
    rotation_DD = rotation(dim)
    vectors_TD = rng.standard_normal((tokens, dim)).astype(np.float32)
    for factor in (np.float32(1), np.float32(1e-38), np.float32(1e5), np.float32(-0.0)):
        rotated_TD = _native.rotate(vectors_TD * factor, rotation_DD, threads=2)
        expected_TD = reference.rotate(vectors_TD * factor, rotation_DD)
        assert rotated_TD.tobytes() == expected_TD.tobytes()
    np.testing.assert_allclose(
        reference.rotate(vectors_TD, rotation_DD),
        vectors_TD.astype(np.float64) @ rotation_DD.astype(np.float64),
        atol=1e-4,
    )


@pytest.mark.usefixtures("isa")
def test_a_vector_is_rotated_alike_whichever_others_it_comes_with() -> None:
    rng = np.random.default_rng(5)
    rotation_DD = rotation(128)
    vectors_TD = rng.standard_normal((600, 128)).astype(np.float32)
    whole_TD = _native.rotate(vectors_TD, rotation_DD, threads=3)
    assert whole_TD.tobytes() == reference.rotate(vectors_TD, rotation_DD).tobytes()
    for start, end in ((0, 1), (1, 4), (3, 300), (299, 600)):
        part_TD = _native.rotate(vectors_TD[start:end], rotation_DD)
        assert part_TD.tobytes() == whole_TD[start:end].tobytes()


SQUARE = np.eye(16, dtype=np.float32)


@pytest.mark.parametrize("kernels", [_native, reference], ids=["native", "reference"])
@pytest.mark.parametrize(
    ("vectors_TD", "rotation_DD", "named"),
    [
        (np.ones((2, 8), np.float32), SQUARE, "dimension 8, the rotation has 16"),
        (np.ones((2, 16)), SQUARE, "vectors_TD"),
        (np.ones((16, 2), np.float32).T, SQUARE, "vectors_TD"),
        (np.ones(16, np.float32), SQUARE, "vectors_TD"),
        (np.ones((2, 16), np.float32), SQUARE[:8], "rotation_DD must be square"),
        (np.ones((2, 16), np.float32), SQUARE.astype(np.float64), "rotation_DD"),
        (np.ones((2, 0), np.float32), np.zeros((0, 0), np.float32), "dimension 0"),
        (np.ones((2, 1032), np.float32), np.eye(1032, dtype=np.float32), "dimension 1032"),
    ],
)
def test_what_cannot_be_is_refused(
    kernels: object, vectors_TD: np.ndarray, rotation_DD: np.ndarray, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        kernels.rotate(vectors_TD, rotation_DD)  # type: ignore[attr-defined]
