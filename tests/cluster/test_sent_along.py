"""Passages that shards send along with what they find, and the fetch of those that they do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_cluster import LocalCluster, unit_vectors

from cluster.client import Client
from cluster.gateway_collect import ALWAYS_ALONG, sent_along
from cluster.observer import Observer, ShardCallFinished
from cluster.wire.types import Along, SearchCall
from colbert_core.api import Index

CALL = SearchCall(query_LD=np.ones((1, 8), np.float32), with_metadata=False)


@pytest.mark.parametrize(
    ("k", "shards", "passages"),
    [
        (10, 1, 10),  # all of them
        (10, 2, 10),
        (10, 4, 8),  # 2.5 and three times its root
        (1000, 2, 568),
        (1, 64, 1),
        (10, 65, None),  # 130 passages for 10 hits: they are fetched
        (1000, 100, 20),
        (100, 1000, None),
    ],
)
def test_how_many_are_sent_along(k: int, shards: int, passages: int | None) -> None:
    expected = None if passages is None else Along(passages, CALL.with_text, False)
    assert sent_along(CALL, k, shards) == expected


def test_never_many_more_than_are_returned() -> None:
    for k in (1, 2, 9, 10, 64, 1000, 10_000):
        for shards in (1, 2, 7, 64, 500, 10_000):
            along = sent_along(CALL, k, shards)
            assert along is None or along.passages * shards <= max(2 * k, ALWAYS_ALONG)


class Calls(Observer):
    """Counts the calls to shards by kind."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()

    def shard_call_finished(self, event: ShardCallFinished) -> None:
        self.kinds[event.kind] += 1


@pytest.fixture(scope="module")
def watched(small_index: Path) -> Iterator[tuple[LocalCluster, Calls]]:
    calls = Calls()
    with LocalCluster(small_index, observer=calls) as cluster:
        yield cluster, calls


@pytest.mark.parametrize(
    ("k", "options", "fetches"),
    [
        (10, {}, 0),
        (10, {"with_text": False, "with_metadata": False}, 0),
        (10, {"with_text": False}, 0),
        # of one shard alone, which sends 29 of its 50
        (50, {"filter": "number < 50"}, 1),
        # tokens are matched for the hits alone
        (10, {"filter": "number < 50", "explain": True}, 1),
        # nothing is found, and nothing fetched
        (10, {"filter": "number < 0"}, 0),
    ],
)
def test_hits_are_those_of_one_process_and_fetched_only_where_they_must(
    watched: tuple[LocalCluster, Calls],
    small_index: Path,
    k: int,
    options: dict[str, Any],
    fetches: int,
) -> None:
    cluster, calls = watched
    Q_LD = unit_vectors(np.random.default_rng(3), 4)
    wanted = Index.open(small_index).search(Q_LD, k, exact=True, filter=options.get("filter"))
    calls.kinds.clear()
    with Client(cluster.address) as client:
        answer = client.search(Q_LD, k, exact=True, **options)
    assert calls.kinds["search"] == 3
    assert calls.kinds["fetch"] == fetches
    with_text = options.get("with_text", True)
    assert [(hit.id, hit.score, hit.text) for hit in answer.hits] == [
        (hit.id, hit.score, hit.text if with_text else None) for hit in wanted
    ]
    if options.get("with_metadata", True):
        assert [hit.metadata for hit in answer.hits] == [hit.metadata for hit in wanted]
