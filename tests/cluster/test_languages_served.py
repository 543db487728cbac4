"""A request's language: which adapter reads it, what is kept apart, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from local_cluster import DIM, LocalCluster

from cluster.client import Client
from cluster.gateway import GatewayConfig
from cluster.gateway_encoder import LazyEncoder
from colbert_core.errors import InvalidInput
from colbert_core.text import Encoder

sys.path.insert(0, str(Path(__file__).parent.parent / "core"))
from text_checkpoints import xmod


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder.load(
        xmod(tmp_path_factory.mktemp("xmod"), dim=DIM), language="en", precision="float32"
    )


@pytest.fixture(scope="module")
def client(small_index: Path, english: Encoder) -> Iterator[Client]:
    """A gateway that remembers vectors and answers, over an encoder that reads English."""
    encoder = LazyEncoder("xmod", lambda: english, "xmod")
    config = GatewayConfig(answer_cache_bytes=2**20)
    with (
        LocalCluster(small_index, encoder=encoder, gateway=config) as cluster,
        Client(cluster.address) as client,
    ):
        yield client


def test_each_text_is_read_in_its_language(client: Client, english: Encoder) -> None:
    """Also the same text again and again, where vectors and answers are remembered."""
    expected = {}
    for language in (None, "de", "zh_TW"):
        reader = english if language is None else english.in_language(language)
        vectors = reader.encode_queries(["hello world"])[0]
        expected[language] = [hit.score for hit in client.search(vectors, k=3, exact=True).hits]
    assert len({tuple(scores) for scores in expected.values()}) == 3
    for _ in range(2):
        for language, scores in expected.items():
            answer = client.search("hello world", k=3, exact=True, language=language)
            np.testing.assert_allclose([hit.score for hit in answer.hits], scores, rtol=1e-6)
    mixed = ["hello world"] * 5
    answers = list(client.search_batch(mixed, k=3, exact=True, language="de"))
    assert [[hit.score for hit in one.hits] for one in answers] == [
        [hit.score for hit in answers[0].hits]
    ] * 5


def test_what_cannot_be_read_is_refused(client: Client) -> None:
    with pytest.raises(InvalidInput, match="no adapters of that name; give one of en_XX, de_DE"):
        client.search("hello", language="fr")
    with pytest.raises(InvalidInput, match="2 adapters of that name; give one of zh_CN, zh_TW"):
        client.search("hello", language="zh")
    with pytest.raises(InvalidInput, match="says how text is read, and the query is vectors"):
        client.search(np.eye(1, DIM, dtype=np.float32), language="de")
    with pytest.raises(InvalidInput) as long:
        client.search("hello", language="x" * 10_000)
    assert len(str(long.value)) < 500
