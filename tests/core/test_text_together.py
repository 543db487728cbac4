"""Queries encoded together have the bits that they have alone."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from colbert_core.text import Encoder
from colbert_core.text.together import Together
from colbert_core.text.tokens import Tokens

DIM = 3


def tokens(length: int, value: int) -> Tokens:
    return Tokens([value] * length, length, list(range(length)), False, [])


class Network:
    """Gives each token a vector of its value; of some shapes, with another last bit in batches."""

    def __init__(self, unlike: set[int] | None = None) -> None:
        self.unlike = unlike or set()
        self.sizes: list[int] = []

    def __call__(self, batch: list[Tokens]) -> Any:
        self.sizes.append(len(batch))
        assert len({len(one.ids) for one in batch}) == 1
        rows = [np.full((len(one.kept), DIM), one.ids[0], np.float32) for one in batch]
        together = np.concatenate(rows)
        if len(batch) > 1 and len(batch[0].ids) in self.unlike:
            return np.nextafter(together, np.float32(np.inf))
        return together


@given(
    st.lists(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 99)), max_size=30), max_size=4),
    st.sets(st.integers(1, 4)),
)
def test_everyone_gets_what_they_get_alone(
    calls: list[list[tuple[int, int]]], unlike: set[int]
) -> None:
    together, network = Together(), Network(unlike)
    for call in calls:
        queries = [tokens(length, value) for length, value in call]
        found = together.encode(queries, network)
        assert len(found) == len(queries)
        for one, query_LD in zip(queries, found, strict=True):
            assert np.array_equal(query_LD, np.full((len(one.ids), DIM), one.ids[0], np.float32))


def test_a_shape_is_tried_once_and_then_known() -> None:
    together, network = Together(), Network(unlike={2})
    for _ in range(2):
        together.encode([tokens(3, 1)] * 8, network)
    assert network.sizes == [1] * 8 + [8] + [8]
    network.sizes.clear()
    for _ in range(2):
        together.encode([tokens(2, 1)] * 8, network)
    assert network.sizes == [1] * 8 + [8] + [1] * 8
    network.sizes.clear()
    together.encode([tokens(3, 1)] * 7, network)
    assert network.sizes == [1, 1, 1, 1, 4, 1, 1, 2, 1]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(precision="float32")


def test_the_model_gives_a_query_the_same_bits_in_every_company(encoder: Encoder) -> None:
    words = [
        "shock",
        "wave",
        "drag",
        "lift",
        "nose",
        "cone",
        "plate",
        "jet",
        "heat",
        "flow",
        "wing",
        "body",
    ]
    texts = [" ".join(words[at:] + words[:at])[: 8 + 5 * (at % 4)] for at in range(10)]
    alone = [encoder.encode_queries([text])[0] for text in texts]
    for _ in range(3):  # the first time, shapes are tried
        for found, wanted in zip(encoder.encode_queries(texts), alone, strict=True):
            assert np.array_equal(found, wanted)
