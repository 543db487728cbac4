"""What an index is built from: read in batches, checked once, one index however it is given."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colbert_core import Index, embeddings, hardware
from colbert_core.embeddings import check_embeddings
from colbert_core.errors import CorpusError, InvalidInput
from colbert_core.types import F32

DOCLENS = [3, 1, 40, 7, 7, 90, 2, 2, 2, 5]
DIM = 16


@pytest.fixture(params=[1, 40 * DIM * 4, 1 << 23], ids=["one passage", "40 tokens", "default"])
def _batches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "BATCH_BYTES", request.param)


def matrix(tokens: int = sum(DOCLENS), dim: int = DIM) -> F32:
    x = np.random.default_rng(tokens).standard_normal((tokens, dim)).astype(np.float32)
    # exact in fp16, so that a spool changes nothing
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)


def passages(x_TD: Any) -> list[Any]:
    return np.split(x_TD, np.cumsum(DOCLENS)[:-1])


def checked(source: Any, doclens: Any, tmp_path: Path, normalize: bool = False) -> Any:
    return check_embeddings(
        source, doclens, normalize, lambda _dim: None, tmp_path, lambda _number: None
    )


@pytest.mark.usefixtures("_batches")
@pytest.mark.parametrize("kind", ["list", "iterator", "matrix", "float16", "float64", "lists"])
def test_batches_give_every_vector_in_order(kind: str, tmp_path: Path) -> None:
    x_TD = matrix()
    sources: dict[str, tuple[Any, Any]] = {
        "list": (passages(x_TD), None),
        "iterator": (iter(passages(x_TD)), None),
        "matrix": (x_TD, DOCLENS),
        "float16": (passages(x_TD.astype(np.float16)), None),
        "float64": (passages(x_TD.astype(np.float64)), None),
        "lists": ([p.tolist() for p in passages(x_TD)], None),
    }
    found = checked(*sources[kind], tmp_path)
    assert found.doclens_N.tolist() == DOCLENS
    assert (found.dim, found.tokens) == (DIM, len(x_TD))
    for _ in range(2):  # what was read once can be read again
        everything = list(found.read(found.batches(range(len(DOCLENS)))))
        assert np.array_equal(np.concatenate(everything), x_TD)
    some = np.array([1, 2, 5, 9])
    read = np.concatenate(list(found.read(found.batches(some))))
    assert np.array_equal(read, np.concatenate([passages(x_TD)[i] for i in some]))


@pytest.mark.usefixtures("_batches")
def test_no_batch_is_empty_and_none_is_longer_than_it_must_be(tmp_path: Path) -> None:
    found = checked(matrix(), DOCLENS, tmp_path)
    most = max(1, embeddings.BATCH_BYTES // (4 * DIM))
    batches = found.batches(range(len(DOCLENS)))
    assert [number for batch in batches for number in batch] == list(range(len(DOCLENS)))
    for batch in batches:
        sizes = found.doclens_N[batch]
        assert 0 < sizes.sum() < most + sizes.max()
    assert found.batches(range(0)) == []


def digests(index: Path) -> dict[str, str]:
    """File names without the generation's id → SHA-256."""
    found = {}
    for path in sorted(index.rglob("*.npy")):
        found["/".join(path.parts[-3::2])] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def test_the_same_vectors_give_the_same_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    doclens = rng.integers(1, 40, 150)
    x_TD = matrix(int(doclens.sum()), 24)
    split = np.split(x_TD, np.cumsum(doclens)[:-1])
    wants: dict[str, str] = {}
    for number, (source, given) in enumerate(
        [(split, None), (iter(split), None), (x_TD, doclens), (x_TD.astype(np.float16), doclens)]
    ):
        Index.build(tmp_path / str(number), source, doclens=given, shards=2, seed=3)
        wants = wants or digests(tmp_path / str(number))
        assert digests(tmp_path / str(number)) == wants
    monkeypatch.setattr(hardware, "threads", lambda: 5)
    Index.build(tmp_path / "threads", split, shards=2, seed=3)
    assert digests(tmp_path / "threads") == wants
    Index.build(tmp_path / "seed", split, shards=2, seed=4)
    assert digests(tmp_path / "seed") != wants


def broken(number: int, token: int, value: float) -> list[F32]:
    found = [p.copy() for p in passages(matrix())]
    found[number][token, 4] = value
    return found


@pytest.mark.usefixtures("_batches")
@pytest.mark.parametrize("as_matrix", [False, True])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "passage 5 holds NaN or infinity"),
        (np.inf, "passage 5 holds NaN or infinity"),
        (3.0, r"passage 5, token 77: the vector's length is 3\..* and must be 1"),
    ],
)
def test_an_error_names_the_passage(
    value: float, message: str, as_matrix: bool, tmp_path: Path
) -> None:
    source: Any = broken(5, 77, value)
    if as_matrix:
        source = np.concatenate(source)
    with pytest.raises(CorpusError, match=message):
        checked(source, DOCLENS if as_matrix else None, tmp_path)


@pytest.mark.parametrize(
    ("source", "doclens", "error", "message"),
    [
        (matrix(), [*DOCLENS, 1], InvalidInput, "add up to 160 and embeddings have 159 tokens"),
        (matrix(), [*DOCLENS, 0], CorpusError, "passage 10 has 0 tokens"),
        (matrix(), [], CorpusError, "no passages"),
        (passages(matrix()), DOCLENS, InvalidInput, r"one numpy array \[tokens, dim\]"),
        (matrix()[0], [1], InvalidInput, r"one numpy array \[tokens, dim\]"),
        (matrix(), None, CorpusError, r"passage 0 has shape \(16,\)"),
        ([["a"]], None, CorpusError, "passage 0 is not an array of numbers"),
    ],
)
def test_what_does_not_fit_is_refused(
    source: Any, doclens: Any, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        checked(source, doclens, tmp_path)


@pytest.mark.parametrize(
    ("later", "message"),
    [
        (passages(matrix())[::-1], "passage 0 is not what it was"),
        (passages(matrix())[:-1], "passage 9 is gone"),
        ([], "passage 0 is gone"),
    ],
)
def test_passages_that_change_between_two_readings_are_noticed(
    later: list[F32], message: str, tmp_path: Path
) -> None:
    class Changing:
        def __init__(self) -> None:
            self.readings = [passages(matrix()), passages(matrix())]  # asked whether it iterates

        def __iter__(self) -> Iterator[F32]:
            return iter(self.readings.pop() if self.readings else later)

    with pytest.raises(CorpusError, match=message):
        Index.build(tmp_path / "ix", Changing())


def test_normalising_leaves_the_callers_arrays_alone(tmp_path: Path) -> None:
    x_TD = 3 * matrix()
    before = x_TD.copy()
    found = checked(x_TD, DOCLENS, tmp_path, normalize=True)
    read = np.concatenate(list(found.read(found.batches(range(len(DOCLENS))))))
    np.testing.assert_allclose(np.linalg.norm(read, axis=1), 1, atol=1e-6)
    assert np.array_equal(x_TD, before)
