"""What the whole must hold on real collections: corpus → index → gRPC → figures.

ADI, 82 documents, runs always; SciFact and vaswani-npl are part of `make test-long`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.beir import read_judged
from cluster.cli_eval import evaluate_command
from cluster.client import Client
from cluster.demo import served
from cluster.index_job import build_index
from cluster.ray_session import RaySession
from colbert_core import Index

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"
SHARDS = 4


@dataclasses.dataclass(frozen=True)
class Built:
    """A collection, its index, and the gateway that serves it."""

    data: Path
    index: Path
    address: str


@pytest.fixture(
    scope="module",
    params=[
        "adi",
        pytest.param("vaswani-npl", marks=pytest.mark.long),
        pytest.param("scifact", marks=pytest.mark.long),
    ],
)
def built(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    ray_cluster: RaySession,
) -> Iterator[Built]:
    data = SHARED_DATA / request.param
    if not data.is_dir():
        pytest.skip("the shared data is not beside this checkout")
    index = tmp_path_factory.mktemp(request.param) / "ix"
    build_index(data, index, shards=SHARDS)
    with served(index, 0) as address:
        yield Built(data, index, address)


def test_four_shards_over_grpc_give_what_one_process_gives(built: Built) -> None:
    index = Index.open(built.index)
    judged = read_judged(built.data, "test")
    with Client(built.address, timeout_s=60) as client:
        for text in judged.texts:
            answer = client.search(text)
            assert answer.coverage.shards_ok == SHARDS
            local = index.search(text)
            assert [hit.id for hit in answer.hits] == [hit.id for hit in local]
            for ours, theirs in zip(local, answer.hits, strict=True):
                assert theirs.score == pytest.approx(ours.score, abs=1e-4)
                assert theirs.text == ours.text


def test_the_default_setting_keeps_the_ranking(
    built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate_command(
        built.data,
        "test",
        target=None,
        index=built.index,
        knobs={},
        exact=True,
        uncompressed=True,
        limit=None,
        as_json=True,
    )
    report = json.loads(capsys.readouterr().out)
    assert report["overlap@10"] >= 0.98
    assert report["uncompressed"]["overlap@10"] >= 0.9
    if report["queries"] >= 90:  # of fewer, one query more or less moves the mean by more
        assert abs(report["ndcg@10"] - report["uncompressed"]["ndcg@10"]) <= 0.005
    assert report["latency_ms"]["p50"] <= report["latency_ms"]["p95"]
