"""Choosing where to search: the same hits on a device, and plain words where there is none.

`torch:cpu` runs the kernels of GPUs without one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_search import clustered, unit

from colbert_core import Index
from colbert_core.errors import InvalidInput
from colbert_core.index import open_generation
from colbert_core.types import F32

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@pytest.fixture(scope="module", params=["tartan", "colbertv2"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("device") / request.param
    Index.build(path, clustered(300, 64), shards=3, codec=request.param)
    return path


def queries() -> list[F32]:
    rng = np.random.default_rng(5)
    return [unit(rng, tokens, 64) for tokens in (1, 5, 32, 7, 2)]


def assert_alike(path: Path, ours: list, theirs: list) -> None:
    assert [hit.id for hit in ours] == [hit.id for hit in theirs]
    scores, expected = ([hit.score for hit in hits] for hits in (ours, theirs))
    if path.name == "tartan":
        assert scores == expected
    else:
        np.testing.assert_allclose(scores, expected, rtol=2e-6)


def test_a_device_gives_the_same_hits(path: Path) -> None:
    native, device = Index.open(path), Index.open(path, device="torch:cpu")
    asked = queries()
    for options in (
        {},
        {"recall": 0.8},
        {"exact": True},
        {"nprobe": 2, "candidates": 90, "k": 3},
        {"nprobe": 4, "scored": 0},
        {"filter": {"7", "30", "31", "200"}},
    ):
        many = device.search_many(asked, **options)
        for query, ours in zip(asked, many, strict=True):
            assert_alike(path, ours, native.search(query, **options))
            assert_alike(path, device.search(query, **options), ours)
    explained = device.search(asked[2], explain=True)
    assert explained[0].matches == native.search(asked[2], explain=True)[0].matches
    assert [shard.implementation for shard in device.generation.shards] == ["torch (cpu)"] * 3


def test_a_device_keeps_deadlines(path: Path) -> None:
    with pytest.raises(TimeoutError):
        Index.open(path, device="torch:cpu").search(queries()[0], timeout_s=1e-9)


@needs_no_gpu
def test_without_a_gpu_the_message_names_the_remedy(path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"finds 0 GPUs here.*device cpu.*CUDA"):
        Index.open(path, device="cuda")


def test_without_torch_the_message_names_the_remedy(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "colbert_core.torch_kernels", None)
    with pytest.raises(InvalidInput, match="pip install torch"):
        Index.open(path, device="cuda")
    assert len(Index.open(path).search(queries()[0])) == 10


def test_a_shard_that_does_not_fit_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("colbert_core.torch_kernels.shard.load_arrays", full)
    with pytest.raises(InvalidInput, match=r"does not fit on cpu.*more shards"):
        open_generation(path, device="torch:cpu")
    open_generation(path, shards=(), device="torch:cpu")
