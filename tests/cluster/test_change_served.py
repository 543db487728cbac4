"""Changed indexes behind gRPC: deltas are shards like others; tombstones hold on every server."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_cluster import DIM, LocalCluster, unit_vectors

from cluster.client import Client
from colbert_core.api import Index
from colbert_core.errors import IndexCorrupt
from colbert_core.generations import collect
from colbert_core.index import ShardWriter, publish, write_codec
from workers.held_shard import HeldShard

EXACT = {"k": 200, "recall": 1.0}


def passage(number: int) -> Any:
    return unit_vectors(np.random.default_rng([3, number]), 2 + number % 7)


def query(seed: int) -> Any:
    return unit_vectors(np.random.default_rng([5, seed]), 5)


def found(searcher: Any, seed: int, **how: Any) -> list[tuple[str, float]]:
    hits = searcher.search(query(seed), **how)
    return [(hit.id, hit.score) for hit in getattr(hits, "hits", hits)]


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Three shards and a delta; passages of all four were deleted, and some replaced."""
    path = tmp_path_factory.mktemp("changed") / "ix"
    ids = [f"p{n}" for n in range(90)]
    index = Index.build(path, [passage(n) for n in range(90)], ids, shards=3, centroids=32)
    index = index.add([passage(n) for n in range(90, 130)], [f"p{n}" for n in range(90, 130)])
    index = index.add([passage(500), passage(501)], ["p5", "p95"], replace=True)
    return index.delete([f"p{n}" for n in range(0, 130, 9)])


def left() -> dict[str, Any]:
    """What is left of it, in its order."""
    gone = {f"p{n}" for n in range(0, 130, 9)}
    passages = {f"p{n}": passage(n) for n in range(130) if n not in (5, 95)}
    passages |= {"p5": passage(500), "p95": passage(501)}
    return {one: vectors for one, vectors in passages.items() if one not in gone}


def test_four_shards_over_grpc_equal_one_process_and_one_index(
    changed: Index, tmp_path: Path
) -> None:
    passages, codec = left(), changed.generation.codec
    write_codec(tmp_path, "codec", codec)
    with ShardWriter(tmp_path, "one", codec) as writer:
        doclens = np.array([len(one) for one in passages.values()], np.int32)
        writer.add(
            codec.compress(np.concatenate(list(passages.values())), doclens), doclens, [*passages]
        )
        publish(tmp_path, "g000001-000000", "codec", codec, [writer.finish()])
    one = Index.open(tmp_path)
    assert len(changed.manifest.shards) >= 4
    with (
        LocalCluster(changed.generation.path) as cluster,
        Client(cluster.address, timeout_s=30) as client,
    ):
        for seed in range(5):
            exact = found(client, seed, **EXACT)
            assert exact == found(changed, seed, **EXACT) == found(one, seed, **EXACT)
            assert len(exact) == len(passages)
            for how in ({"k": 10}, {"k": 200}, {"k": 5, "candidates": 9}, {"k": 9, "scored": 0}):
                assert found(client, seed, **how) == found(changed, seed, **how)
            assert len(found(client, seed, k=200)) == len(passages)
        info = client.info()
        assert info.passages == len(passages)
        assert info.tokens == sum(map(len, passages.values()))
        assert [shard.passages for shard in info.shards] == [
            shard.live_passages for shard in changed.manifest.shards
        ]


def test_a_server_goes_on_with_its_generation_and_keeps_it(changed: Index, tmp_path: Path) -> None:
    path = Path(shutil.copytree(changed.generation.path, tmp_path / "ix"))
    name, shard = changed.manifest.generation, changed.manifest.shards[0].id
    with LocalCluster(path) as cluster, Client(cluster.address, timeout_s=30) as client:
        before = found(client, 1, k=200)
        Index.open(path).delete(["p1"]).compact()
        assert name in collect(path, keep=0).in_use
        assert found(client, 1, k=200) == before
        HeldShard.open(path, name, shard)  # as a server that Ray starts again does
    assert len(Index.open(path)) == len(changed) - 1


def test_altered_tombstones_stop_a_shard_server(changed: Index, tmp_path: Path) -> None:
    path = Path(shutil.copytree(changed.generation.path, tmp_path / "ix"))
    entry = changed.manifest.shards[0]
    assert entry.tombstones is not None
    stones = np.load(path / entry.tombstones.file)
    np.save(path / entry.tombstones.file, np.arange(len(stones), dtype=np.uint32))
    with pytest.raises(IndexCorrupt, match="altered"):
        HeldShard.open(path, changed.manifest.generation, entry.id)


def test_torch_shards_leave_deleted_passages_out(changed: Index) -> None:
    pytest.importorskip("torch")
    device = Index.open(changed.generation.path, device="torch:cpu")
    assert device.dim == DIM
    for how in ({"k": 10}, {"k": 200}, EXACT, {"k": 7, "candidates": 9}):
        assert found(device, 1, **how) == found(changed, 1, **how)
    one = device.search(query(2), k=99, filter=["p0", "p1", "p2"])
    assert sorted(one.ids) == ["p1", "p2"]
