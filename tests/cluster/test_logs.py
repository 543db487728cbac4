"""Log lines: what they say, that they are bounded, and what they never hold."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

import pytest
from telemetry_events import query, shard_call

from cluster.security.api_keys import new_key
from cluster.telemetry.logs import configure_logging, fields
from cluster.telemetry.query_log import LINES_PER_S, MOST_REQUESTS, QueryLog
from cluster.wire.request_context import (
    REQUEST_ID_KEY,
    begin_part,
    begin_request,
    note_query_text,
    request_id,
    set_caller,
)
from colbert_core.errors import InvalidInput

log = logging.getLogger("cluster.test")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """The loggers as they were, and each test in a context of its own."""
    root = logging.getLogger()
    before = (root.handlers, root.level)
    yield
    root.handlers, root.level = before[0], before[1]


def written(form: str, work: Callable[[], None]) -> str:
    """What is logged while `work` runs in a request of "notebook" with the id "r1"."""
    stream = io.StringIO()
    configure_logging(form, stream)

    def within() -> None:
        begin_request(((REQUEST_ID_KEY, "r1"),))
        set_caller("notebook")
        work()

    copy_context().run(within)
    return stream.getvalue()


def lines(work: Callable[[], None]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written("json", work).splitlines()]


def test_json_lines_say_which_request_they_are_of() -> None:
    (line,) = lines(lambda: log.warning("%s is away", "s0", extra=fields(shard="s0", tries=2)))
    assert line["message"] == "s0 is away"
    assert (line["request_id"], line["client"]) == ("r1", "notebook")
    assert (line["shard"], line["tries"], line["level"]) == ("s0", 2, "WARNING")
    assert line["time"].endswith("Z")


def test_text_lines_say_the_same() -> None:
    text = written("text", lambda: log.warning("away", extra=fields(shard="s0", why="two words")))
    assert text.endswith('WARNING away request_id=r1 client=notebook shard=s0 why="two words"\n')


def test_outside_of_a_request_there_is_no_id() -> None:
    stream = io.StringIO()
    configure_logging("json", stream)
    copy_context().run(lambda: log.warning("started"))
    assert "request_id" not in json.loads(stream.getvalue())


def test_a_traceback_stays_in_its_object() -> None:
    def fail() -> None:
        try:
            raise ValueError("boom\nsecond line")
        except ValueError:
            log.exception("it failed")

    (line,) = lines(fail)
    assert "ValueError: boom" in line["exception"]


def test_lines_of_other_packages_are_warnings_or_worse() -> None:
    def work() -> None:
        logging.getLogger("urllib3").info("chatter")
        logging.getLogger("urllib3").warning("worth reading")
        log.info("ours")

    assert [line["message"] for line in lines(work)] == ["worth reading", "ours"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_looks_like_a_key_is_masked(form: str) -> None:
    _, key = new_key("notebook", "search")

    def work() -> None:
        log.warning("metadata: authorization: Bearer %s", key, extra=fields(given=key))
        log.warning("bearer abc.def-ghi and then some")

    text = written(form, work)
    assert key not in text
    assert key.rpartition(".")[2] not in text
    assert "abc.def-ghi" not in text
    assert "and then some" in text


def test_a_format_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"'xml'.*text or json"):
        configure_logging("xml")


def test_a_slow_query_says_where_the_time_went() -> None:
    def work() -> None:
        query_log = QueryLog(slow_ms=20.0)
        query_log.shard_call_finished(shard_call("s0", search_ms=3.5))
        query_log.shard_call_finished(shard_call("s1", status="cancelled", search_ms=0.0))
        query_log.query_finished(query(total_ms=19.9))
        query_log.shard_call_finished(shard_call("s0", search_ms=3.5))
        query_log.query_finished(query(total_ms=20.7))

    (line,) = lines(work)
    assert (line["message"], line["level"]) == ("slow query", "WARNING")
    assert (line["total_ms"], line["stages_ms"]["encode"]) == (20.7, 12.0)
    assert (line["k"], line["query_tokens"], line["text_chars"]) == (10, 12, 40)
    assert line["coverage"] == {"shards": "2/2", "passages": "100/100"}
    (attempt,) = line["shards"]
    assert attempt["after_ms"] == 12.5
    assert (attempt["shard"], attempt["ms"], attempt["search_ms"]) == ("s0", 4.0, 3.5)


def test_texts_are_logged_only_where_it_was_asked_for() -> None:
    def work() -> None:
        note_query_text("a private matter")
        QueryLog(slow_ms=1.0).query_finished(query())

    def asked() -> None:
        note_query_text("a private matter")
        QueryLog(slow_ms=1000.0, every=True).query_finished(query())

    assert "private" not in written("json", work)
    (line,) = lines(asked)
    assert (line["text"], line["level"]) == ("a private matter", "INFO")


def test_an_error_that_may_repeat_what_was_sent_is_left_out() -> None:
    def work() -> None:
        query_log = QueryLog(slow_ms=1.0)
        query_log.query_finished(query(status="INVALID_ARGUMENT", error="filter: secret"))
        query_log.query_finished(query(status="UNAVAILABLE", error="shard s0 is away"))

    first, second = lines(work)
    assert "error" not in first
    assert second["error"] == "shard s0 is away"


def test_under_overload_lines_are_few_and_the_rest_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("cluster.telemetry.query_log.time.monotonic", lambda: clock[0])

    def work() -> None:
        query_log = QueryLog(slow_ms=1.0)
        for _ in range(100):
            query_log.query_finished(query())
        clock[0] += 1.0
        query_log.query_finished(query())

    found = lines(work)
    assert len(found) == LINES_PER_S + 1
    assert found[-1]["left_out"] == 100 - LINES_PER_S


def test_attempts_of_queries_that_never_end_are_forgotten() -> None:
    def work() -> None:
        query_log = QueryLog(slow_ms=1.0)
        for number in range(MOST_REQUESTS + 10):
            begin_request(((REQUEST_ID_KEY, f"r{number}"),))
            query_log.shard_call_finished(shard_call())
        assert len(query_log._attempts) == MOST_REQUESTS

    written("json", work)


def test_the_parts_of_a_batch_have_ids_of_their_own() -> None:
    def work() -> None:
        begin_request(((REQUEST_ID_KEY, "b" * 64),))
        begin_part(1023)
        assert request_id() == "b" * 56 + ".1023"
        assert begin_request(((REQUEST_ID_KEY, request_id()),)) == "b" * 56 + ".1023"

    copy_context().run(work)
