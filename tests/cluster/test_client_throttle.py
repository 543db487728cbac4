"""A client that is refused more often than answered holds back, and comes back."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from cluster.client import Client, RetryPolicy
from cluster.client_throttle import ALLOWED, Throttle
from cluster.wire.handlers import answering
from cluster.wire.tartan.v1 import search_pb2_grpc
from colbert_core.errors import Overloaded, QueryError


class Crowd:
    """Calls at a rate, through a throttle, to a service that answers so many a second."""

    def __init__(self, rate: float) -> None:
        self._step_s = 1.0 / rate
        self._rng = random.Random(0)
        self._now = 0.0
        self.throttle = Throttle(lambda: self._now, self._rng.random)

    def ask(self, seconds: float, answered_a_second: float) -> tuple[float, float]:
        """Calls sent, and calls answered, a second."""
        sent = answered = 0
        began, room = self._now, 0.0
        while self._now < began + seconds:
            self._now += self._step_s
            room = min(10.0, room + self._step_s * answered_a_second)
            try:
                self.throttle.ask()
            except Overloaded:
                continue
            sent += 1
            if room >= 1:
                room -= 1
                answered += 1
            else:
                self.throttle.refused("full: 4 at once")
        return sent / seconds, answered / seconds


def test_a_service_with_room_is_sent_everything() -> None:
    sent, answered = Crowd(300).ask(20, answered_a_second=301)
    assert sent == pytest.approx(300, abs=1)
    assert answered == pytest.approx(300, abs=1)


def test_half_more_than_can_be_answered_is_sent_all_the_same() -> None:
    crowd = Crowd(300)
    assert crowd.ask(20, answered_a_second=200)[0] == pytest.approx(300, rel=0.02)


@pytest.mark.parametrize("times", [3, 10, 30])
def test_past_that_about_two_are_sent_for_each_answer(times: int) -> None:
    crowd = Crowd(100.0 * times)
    crowd.ask(30, answered_a_second=100)
    sent, answered = crowd.ask(30, answered_a_second=100)
    assert answered == pytest.approx(100, rel=0.05)
    # Where so much is asked, the tenth that is always sent is more.
    assert sent == pytest.approx(max(200, 0.1 * 100 * times), rel=0.15)


def test_it_comes_back_when_the_service_does() -> None:
    crowd = Crowd(300)
    assert crowd.ask(60, answered_a_second=0)[0] == pytest.approx(30, rel=0.2)
    crowd.ask(30, answered_a_second=400)
    sent, answered = crowd.ask(5, answered_a_second=400)
    assert sent == pytest.approx(300, rel=0.02)
    assert answered == pytest.approx(sent)


def test_a_few_refusals_say_nothing() -> None:
    throttle = Throttle(lambda: 0.0, lambda: 0.0)  # it would hold back whatever it may
    for _ in range(int(ALLOWED)):
        throttle.ask()
        throttle.refused("full: 4 at once")
    throttle.ask()
    throttle.refused("full: 4 at once")
    with pytest.raises(
        Overloaded,
        match=r"not sent: of the last 12 calls 12 were refused.*last refusal: full: 4 at once",
    ):
        throttle.ask()


class Full(search_pb2_grpc.SearchServiceServicer):
    """Refuses everything, with `error`."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.calls = 0

    @answering
    def Search(self, request: Any, context: Any) -> Any:
        self.calls += 1
        raise self.error


@pytest.mark.parametrize(
    ("error", "most_sent"), [(Overloaded("full"), 0.5), (QueryError("wrong"), 1)]
)
def test_asking_again_does_not_multiply_what_fills_a_service(
    error: Exception, most_sent: float
) -> None:
    servicer, server = Full(error), grpc.server(ThreadPoolExecutor(2))
    search_pb2_grpc.add_SearchServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    asked = 200
    try:
        with Client(f"127.0.0.1:{port}", retry=RetryPolicy(4, 0.0, 0.0)) as client:
            for _ in range(asked):
                with pytest.raises(type(error)):
                    client.search("x")
    finally:
        server.stop(0).wait()
    if most_sent == 1:  # a wrong query says nothing of how full a service is
        assert servicer.calls == asked
    assert servicer.calls <= most_sent * asked
