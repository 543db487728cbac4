"""A query's rotation: the native kernel gives what the reference gives, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from colbert_core import _native, reference
from colbert_core.codec import tartan


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dim", [8, 24, 128, 192, 1024])
@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 7, 32, 33])
def test_rotated_queries_are_the_references(tokens: int, dim: int) -> None:
    rng = np.random.default_rng(tokens * dim)
    rotation_DD = tartan.rotation(dim, seed=dim)
    Q_LD = rng.standard_normal((tokens, dim)).astype(np.float32)
    for query_LD in (Q_LD, Q_LD * np.float32(1e-38), Q_LD * np.float32(1e5), -0.0 * Q_LD):
        rotated_LD = _native.rotate_query(query_LD, rotation_DD)
        expected_LD = reference.rotate_query(query_LD, rotation_DD)
        assert rotated_LD.tobytes() == expected_LD.tobytes()
    np.testing.assert_allclose(
        reference.rotate_query(Q_LD, rotation_DD),
        Q_LD.astype(np.float64) @ rotation_DD.astype(np.float64),
        atol=1e-4,
    )


SQUARE = np.eye(16, dtype=np.float32)


@pytest.mark.parametrize("kernels", [_native, reference], ids=["native", "reference"])
@pytest.mark.parametrize(
    ("Q_LD", "rotation_DD", "named"),
    [
        (np.ones((2, 8), np.float32), SQUARE, "dimension 8, the index has 16"),
        (np.ones((0, 16), np.float32), SQUARE, "0 tokens"),
        (np.ones((1025, 16), np.float32), SQUARE, "1025 tokens"),
        (np.ones((2, 16)), SQUARE, "Q_LD"),
        (np.ones((16, 2), np.float32).T, SQUARE, "Q_LD"),
        (np.ones((2, 16), np.float32), SQUARE[:8], "rotation_DD must be square"),
        (np.ones((2, 16), np.float32), SQUARE.astype(np.float64), "rotation_DD"),
        (np.ones((2, 12), np.float32), np.eye(12, dtype=np.float32), "multiple of 8"),
        (np.ones((2, 0), np.float32), np.zeros((0, 0), np.float32), "multiple of 8"),
        (np.ones((2, 1032), np.float32), np.eye(1032, dtype=np.float32), "multiple of 8"),
    ],
)
def test_what_cannot_be_is_refused(
    kernels: object, Q_LD: np.ndarray, rotation_DD: np.ndarray, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        kernels.rotate_query(Q_LD, rotation_DD)  # type: ignore[attr-defined]
