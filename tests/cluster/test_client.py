"""The clients against a gateway that answers as it is told: retries, deadlines, batches."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from cluster.client import AsyncClient, Client, RetryPolicy
from cluster.client_calls import BATCH_BYTES, BATCH_QUERIES, batches
from cluster.client_retry import Attempts
from cluster.client_throttle import Throttle
from cluster.wire.handlers import answering, problem_of
from cluster.wire.tartan.v1 import search_pb2, search_pb2_grpc
from colbert_core import errors
from colbert_core.errors import (
    DeadlineExceeded,
    InvalidInput,
    Overloaded,
    QueryError,
    TartanError,
    Unavailable,
)

QUICK = RetryPolicy(attempts=4, first_pause_s=0.001)
FINE = search_pb2.SearchResponse(generation="g", hits=[search_pb2.Hit(id="p1", score=2.0)])


class ScriptedGateway(search_pb2_grpc.SearchServiceServicer):
    """Answers each call with the next of `script`, then with FINE; an exception is raised."""

    def __init__(self) -> None:
        self.script: list[Any] = []
        self.calls: list[Any] = []

    def _next(self) -> Any:
        step = self.script.pop(0) if self.script else FINE
        if isinstance(step, Exception):
            raise step
        return step

    @answering
    def Search(self, request: Any, context: Any) -> Any:
        self.calls.append(request)
        step = self._next()
        return step() if callable(step) else step

    def SearchBatch(self, request: Any, context: Any) -> Iterator[Any]:
        self.calls.append(request)
        for index in reversed(range(len(request.requests))):  # answers come in any order
            step = self.script.pop(0) if self.script else FINE
            if step == "hang up":
                context.abort(grpc.StatusCode.UNAVAILABLE, "the gateway is going away")
            if isinstance(step, Exception):
                bad = problem_of(step)
                problem = search_pb2.Problem(code=bad.code, message=bad.message, error=bad.error)
                yield search_pb2.SearchBatchResponse(index=index, problem=problem)
            else:
                query = request.requests[index].text
                answer = search_pb2.SearchResponse(generation=query)
                yield search_pb2.SearchBatchResponse(index=index, answer=answer)

    @answering
    def GetIndexInfo(self, request: Any, context: Any) -> Any:
        self.calls.append(request)
        self._next()
        return search_pb2.GetIndexInfoResponse(generation="g", passages=3)


@pytest.fixture
def gateway() -> Iterator[tuple[ScriptedGateway, str]]:
    servicer = ScriptedGateway()
    server = grpc.server(ThreadPoolExecutor(4))
    search_pb2_grpc.add_SearchServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(0).wait()


class SyncFace:
    """AsyncClient behind Client's face, so that each test holds for both."""

    def __init__(self, target: Any, **options: Any) -> None:
        self._make = lambda: AsyncClient(target, **options)

    def _run(self, use: Callable[[AsyncClient], Any]) -> Any:
        async def run() -> Any:
            async with self._make() as client:
                return await use(client)

        return asyncio.run(run())

    def search(self, *args: Any, **options: Any) -> Any:
        return self._run(lambda client: client.search(*args, **options))

    def info(self) -> Any:
        return self._run(lambda client: client.info())

    def search_batch(self, *args: Any, **options: Any) -> Any:
        async def collect(client: AsyncClient) -> Any:
            return [answer async for answer in client.search_batch(*args, **options)]

        return self._run(collect)


@pytest.fixture(params=[Client, SyncFace])
def client_class(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("error", [Unavailable("shard s1 is away"), Overloaded("512 calls")])
def test_what_may_be_retried_is(gateway: Any, client_class: Any, error: TartanError) -> None:
    servicer, address = gateway
    servicer.script = [error, error]
    answer = client_class(address, retry=QUICK).search("x", k=3)
    assert answer.hits[0].id == "p1"
    assert len(servicer.calls) == 3
    assert {call.k for call in servicer.calls} == {3}


def test_retries_end_and_the_last_error_is_raised(gateway: Any, client_class: Any) -> None:
    servicer, address = gateway
    servicer.script = [Unavailable(f"try {n}") for n in range(1, 9)]
    with pytest.raises(Unavailable, match=r"^try 4\b"):
        client_class(address, retry=QUICK).search("x")
    assert len(servicer.calls) == 4


@pytest.mark.parametrize(
    "error",
    [
        QueryError("k is 0"),
        errors.ModelError("no model"),
        errors.IndexCorrupt("a file"),
        DeadlineExceeded("over"),
        TartanError("a bug"),
    ],
)
def test_what_would_fail_again_is_not_retried(
    gateway: Any, client_class: Any, error: TartanError
) -> None:
    servicer, address = gateway
    servicer.script = [error]
    with pytest.raises(type(error)) as caught:
        client_class(address, retry=QUICK).search("x")
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)
    assert len(servicer.calls) == 1


def test_retries_stay_within_the_deadline(gateway: Any, client_class: Any) -> None:
    servicer, address = gateway
    servicer.script = [Unavailable("away")] * 1000
    patient = RetryPolicy(attempts=1000, first_pause_s=0.05, longest_pause_s=0.05)
    started = time.monotonic()
    with pytest.raises((Unavailable, DeadlineExceeded)):
        client_class(address, retry=patient).search("x", timeout_s=2.0)
    assert time.monotonic() - started < 30.0  # a thousand pauses take longer
    assert len(servicer.calls) > 1


def test_a_slow_gateway_ends_with_deadline_exceeded(gateway: Any, client_class: Any) -> None:
    servicer, address = gateway

    def slow() -> Any:
        time.sleep(1.0)
        return FINE

    servicer.script = [slow]
    with pytest.raises(DeadlineExceeded, match=f"gateway {address}"):
        client_class(address, retry=QUICK).search("x", timeout_s=0.2)


def test_no_gateway_at_all_is_unavailable_and_names_the_target(client_class: Any) -> None:
    with pytest.raises(Unavailable, match=r"gateway 127\.0\.0\.1:1:"):
        client_class("127.0.0.1:1", retry=QUICK).search("x", timeout_s=30.0)


def test_info_is_retried_too(gateway: Any, client_class: Any) -> None:
    servicer, address = gateway
    servicer.script = [Unavailable("away")]
    assert client_class(address, retry=QUICK).info().passages == 3


def test_a_batch_asks_again_only_for_what_failed(gateway: Any, client_class: Any) -> None:
    servicer, address = gateway
    # Answered from the last to the first: queries 3, 2, 1, 0.
    servicer.script = [FINE, Unavailable("s1"), FINE, Overloaded("full")]
    found = list(client_class(address, retry=QUICK).search_batch(["a", "b", "c", "d"]))
    assert [answer.generation for answer in found] == ["a", "b", "c", "d"]
    asked = [[request.text for request in call.requests] for call in servicer.calls]
    assert asked == [["a", "b", "c", "d"], ["a", "c"]]


def test_a_broken_stream_keeps_what_had_arrived(gateway: Any, client_class: Any) -> None:
    servicer, address = gateway
    servicer.script = [FINE, "hang up"]
    found = list(client_class(address, retry=QUICK).search_batch(["a", "b", "c"]))
    assert [answer.generation for answer in found] == ["a", "b", "c"]
    asked = [[request.text for request in call.requests] for call in servicer.calls]
    assert asked[0] == ["a", "b", "c"]
    assert len(asked[1]) in (2, 3)  # gRPC may drop a message that came just before the end


def test_the_error_of_a_batch_names_the_query(gateway: Any, client_class: Any) -> None:
    servicer, address = gateway
    servicer.script = [QueryError("too long")]
    with pytest.raises(QueryError, match=r"^query 2: too long$"):
        list(client_class(address, retry=QUICK).search_batch(["a", "b", "c"]))
    servicer.script = [Unavailable("away")] * 100
    with pytest.raises(Unavailable, match=r"^query \d: away$"):
        list(client_class(address, retry=QUICK).search_batch(["a", "b", "c"]))


def test_a_long_batch_is_read_as_it_is_needed(gateway: Any) -> None:
    _, address = gateway
    taken = []

    def queries() -> Iterator[str]:
        for number in range(1000):
            taken.append(number)
            yield f"q{number}"

    with Client(address) as client:
        answers = client.search_batch(queries())
        assert [next(answers).generation for _ in range(3)] == ["q0", "q1", "q2"]
        assert len(taken) <= BATCH_QUERIES + 1
        assert [answer.generation for answer in answers][-1] == "q999"
        assert list(client.search_batch([])) == []


def test_batches_are_bounded_in_count_and_in_bytes() -> None:
    small = [search_pb2.SearchRequest(text=str(n)) for n in range(2 * BATCH_QUERIES + 1)]
    assert [len(batch) for batch in batches(small)] == [BATCH_QUERIES, BATCH_QUERIES, 1]
    large = search_pb2.SearchRequest(text="x" * (BATCH_BYTES // 3))
    assert [len(batch) for batch in batches([large] * 5)] == [2, 2, 1]
    huge = search_pb2.SearchRequest(text="x" * (BATCH_BYTES + 1))
    assert [len(batch) for batch in batches([small[0], huge, small[1]])] == [1, 1, 1]


@pytest.mark.parametrize(
    ("query", "part"),
    [
        (None, "shape"),
        (3.0, "shape"),
        (np.zeros(8), "shape"),
        (np.zeros((1, 2, 8)), "shape"),
        (["a", "b"], "neither a text nor"),
        ([[1.0, 2.0], [3.0]], "neither a text nor"),
        (b"bytes", "neither a text nor"),
    ],
)
def test_what_is_not_a_query_is_refused_before_anything_is_sent(query: Any, part: str) -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(QueryError, match=part):
        client.search(query)


def test_impossible_options_are_refused_before_anything_is_sent() -> None:
    with Client("127.0.0.1:1") as client:
        with pytest.raises(QueryError, match="impossible value"):
            client.search("x", k=2**40)
        with pytest.raises(TypeError, match="with_txt"):
            client.search("x", with_txt=False)
        with pytest.raises(InvalidInput, match="timeout_s"):
            client.search("x", timeout_s=0.0)
        with pytest.raises(QueryError, match="three ways"):
            client.search("x", recall=0.9, exact=True)
    with pytest.raises(InvalidInput, match="target is empty"):
        Client("")
    with pytest.raises(InvalidInput, match="attempts"):
        RetryPolicy(attempts=0)


@given(st.integers(1, 6), st.floats(0.0, 0.2), st.floats(0.0, 0.5))
def test_pauses_grow_and_are_bounded(attempts: int, first_s: float, longest_s: float) -> None:
    policy = RetryPolicy(attempts, first_s, longest_s)
    made = Attempts(policy, 3600.0, Throttle())
    for number in range(attempts - 1):
        assert made.left_s() > 3000
        assert 0 <= made.pause_after(Unavailable("x")) <= policy.longest(number) <= longest_s
    made.left_s()
    with pytest.raises(Unavailable):
        made.pause_after(Unavailable("x"))


def test_importing_the_client_pulls_in_nothing_heavy() -> None:
    code = (
        "import sys; from cluster.client import AsyncClient, Client; "
        "heavy = {'ray', 'torch', 'transformers', 'pyarrow', 'colbert_core.text', "
        "'colbert_core.index', 'colbert_core.kernels'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout.strip() == "[]"


@contextmanager
def several(count: int) -> Iterator[list[tuple[ScriptedGateway, str]]]:
    with ExitStack() as held:
        made = []
        for _ in range(count):
            servicer, server = ScriptedGateway(), grpc.server(ThreadPoolExecutor(2))
            search_pb2_grpc.add_SearchServiceServicer_to_server(servicer, server)
            made.append((servicer, f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"))
            server.start()
            held.callback(lambda server=server: server.stop(0).wait())
        yield made


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize("form", ["commas", "list"])
def test_where_one_gateway_is_away_another_is_asked(client_class: Any, form: str) -> None:
    slow = RetryPolicy(first_pause_s=3600.0, longest_pause_s=3600.0)  # no pause may be made
    with several(1) as [(well, address)]:
        targets = [closed_port(), address]
        for _ in range(6):  # wherever it begins
            client = client_class(targets if form == "list" else ",".join(targets), retry=slow)
            assert client.search("x").generation == "g"
            assert client.info().generation == "g"
            assert [one.generation for one in client.search_batch(["a", "b"])] == ["a", "b"]
        assert len(well.calls) == 18


def test_a_client_stays_with_the_gateway_that_answers() -> None:
    with several(2) as gateways:
        targets = [address for _, address in gateways]
        with Client(targets) as client:
            for _ in range(8):
                client.search("x")
        assert sorted(len(servicer.calls) for servicer, _ in gateways) == [0, 8]


def test_only_one_that_is_away_is_left_and_with_its_name(client_class: Any) -> None:
    with several(2) as gateways:
        for servicer, _ in gateways:
            servicer.script = [QueryError("k is 0")]
        with pytest.raises(QueryError):
            client_class([address for _, address in gateways]).search("x")
        assert sum(len(servicer.calls) for servicer, _ in gateways) == 1
    down = [closed_port(), closed_port()]
    with pytest.raises(Unavailable, match=r"gateway 127\.0\.0\.1:\d+"):
        client_class(down, retry=RetryPolicy(attempts=2)).search("x")


@pytest.mark.parametrize("target", ["", ",", "a:1,", [], ["a:1", ""]])
def test_an_empty_target_is_refused(target: Any) -> None:
    with pytest.raises(InvalidInput, match="target is empty"):
        Client(target)


def test_a_list_of_grpcs_own_is_one_target() -> None:
    with Client("ipv4:127.0.0.1:1,127.0.0.1:2") as client:
        assert client.targets == ("ipv4:127.0.0.1:1,127.0.0.1:2",)
