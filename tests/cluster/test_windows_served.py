"""Documents in windows through a gateway: the answers of one process, window and all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from local_cluster import LocalCluster, unit_vectors

from cluster.client import Client
from colbert_core.api import Index
from colbert_core.index import ShardWriter, new_generation_id, publish, write_codec

DOCUMENTS, WINDOWS = 20, 4


def build(folder: Path) -> Path:
    """Two shards of documents, each of four windows of 50 characters."""
    rng = np.random.default_rng(11)
    passages = [unit_vectors(rng, 5) for _ in range(2 * DOCUMENTS * WINDOWS)]
    codec = Index.build(folder / "flat", passages, centroids=32).generation.codec
    path = folder / "index"
    generation = new_generation_id(path)
    write_codec(path, generation, codec)
    windows = [
        (document, 40 * w, 40 * w + 50) for document in range(DOCUMENTS) for w in range(WINDOWS)
    ]
    entries = []
    for shard in range(2):
        with ShardWriter(path, f"s{shard}", codec) as writer:
            first = shard * DOCUMENTS
            mine = passages[first * WINDOWS : (first + DOCUMENTS) * WINDOWS]
            numbers = range(first, first + DOCUMENTS)
            doclens_N = np.full(len(mine), 5, np.int32)
            writer.add(
                codec.compress(np.concatenate(mine), doclens_N),
                doclens_N,
                [f"d{number}" for number in numbers],
                [f"{number:10d}" * 20 for number in numbers],
                [{"n": number} for number in numbers],
                np.array(windows, np.int32),
            )
            entries.append(writer.finish())
    publish(path, generation, generation, codec, entries)
    return path


def test_a_cluster_gives_documents_and_their_windows(tmp_path: Path) -> None:
    path = build(tmp_path)
    local = Index.open(path)
    query = unit_vectors(np.random.default_rng(2), 6)
    with LocalCluster(path) as cluster, Client(cluster.address) as client:
        for k, wanted in ((3, None), (100, None), (100, "n >= 15 and n < 25"), (5, "n = 3")):
            answer = client.search(query, k, filter=wanted, explain=True)
            hits = local.search(query, k, filter=wanted, explain=True)
            assert answer.hits == tuple(hits)
            bare = client.search(query, k, filter=wanted, with_text=False, with_metadata=False)
            assert [(hit.id, hit.window) for hit in bare.hits] == [
                (hit.id, hit.window) for hit in hits
            ]
            assert not any(hit.text or hit.metadata for hit in bare.hits)
            assert len(hits) == min(k, {None: 40, "n = 3": 1}.get(wanted, 10))
            for hit in answer.hits:
                assert hit.window is not None
                assert hit.window[1] - hit.window[0] == 50
                assert hit.text == f"{hit.metadata['n']:10d}" * 20
