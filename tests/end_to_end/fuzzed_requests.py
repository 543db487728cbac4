"""Requests that nobody would send: valid ones with bytes changed, cut, doubled; and noise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cluster.wire.tartan.v1 import search_pb2

DIM = 32
METHODS = ("Search", "SearchBatch", "GetIndexInfo")
DEEP = 40  # levels of filters; 32 are allowed, and protobuf itself ends at 100


def fuzzed(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """(method, request) so many times; the same for the same seed."""
    rng = np.random.default_rng(seed)
    valid = [message.SerializeToString() for message in requests(rng)]
    for _ in range(count):
        method = METHODS[rng.integers(len(METHODS))]
        if rng.random() < 0.1:
            yield method, rng.bytes(int(rng.integers(1, 400)))
            continue
        data = bytearray(valid[rng.integers(len(valid))])
        for _ in range(rng.integers(1, 4)):
            CHANGES[rng.integers(len(CHANGES))](rng, data)
        yield method, bytes(data)


def requests(rng: np.random.Generator) -> list[search_pb2.SearchRequest]:
    """Valid and nearly valid requests of every kind."""
    vectors = rng.standard_normal((4, DIM)).astype("<f4")
    matrix = search_pb2.Matrix(data=vectors.tobytes(), rows=4, dim=DIM)
    nothing, huge = (np.full((4, DIM), value, "<f4") for value in (np.nan, 2e6))
    made = [
        search_pb2.SearchRequest(vectors=matrix, k=3, with_text=False),
        search_pb2.SearchRequest(vectors=matrix, recall=0.5, explain=True, timings=True),
        search_pb2.SearchRequest(text="some words", k=3),
        search_pb2.SearchRequest(
            vectors=search_pb2.Matrix(data=b"", rows=2**32 - 1, dim=2**32 - 1)
        ),
        search_pb2.SearchRequest(
            vectors=search_pb2.Matrix(data=nothing.tobytes(), rows=4, dim=DIM)
        ),
        search_pb2.SearchRequest(vectors=search_pb2.Matrix(data=huge.tobytes(), rows=4, dim=DIM)),
        search_pb2.SearchRequest(vectors=matrix, k=2**31 - 1, exact=True),
        search_pb2.SearchRequest(vectors=matrix, budget=search_pb2.SearchBudget(nprobe=2**31 - 1)),
    ]
    for expression in (
        "number >= 3 and (",
        "not " * 500 + "number = 1",
        "number = 3 or number = 4",
    ):
        request = search_pb2.SearchRequest(vectors=matrix)
        request.filter.expression = expression
        made.append(request)
    request = search_pb2.SearchRequest(vectors=matrix)
    inner = request.filter
    for _ in range(DEEP):
        inner = getattr(inner, "not")
    inner.exists = "number"
    return [*made, request]


def flip(rng: np.random.Generator, data: bytearray) -> None:
    if data:
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))


def cut(rng: np.random.Generator, data: bytearray) -> None:
    del data[int(rng.integers(len(data) + 1)) :]


def double(rng: np.random.Generator, data: bytearray) -> None:
    start = int(rng.integers(len(data) + 1))
    data[start:start] = data[start : start + int(rng.integers(1, 200))]


def insert(rng: np.random.Generator, data: bytearray) -> None:
    start = int(rng.integers(len(data) + 1))
    data[start:start] = rng.bytes(int(rng.integers(1, 20)))


def long_number(rng: np.random.Generator, data: bytearray) -> None:
    start = int(rng.integers(len(data) + 1))
    data[start : start + 1] = b"\xff" * int(rng.integers(1, 10)) + b"\x01"


CHANGES = (flip, cut, double, insert, long_number)
