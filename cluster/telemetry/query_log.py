"""The query log: a line for each slow query, and one for every query where `--log-queries` asks.

A slow query's line says where the time went: milliseconds of each stage and of each attempt at a
shard, what was asked for, and how complete the answer is. Under overload every query is slow, so
there are at most so many lines a second; the next line says how many were left out.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from dataclasses import asdict
from typing import Any

from cluster.observer import QueryFinished, ShardCallFinished
from cluster.telemetry.logs import fields
from cluster.wire.request_context import query_text, request_id

log = logging.getLogger(__name__)

DEFAULT_SLOW_MS = 1000.0
LINES_PER_S = 10
MOST_REQUESTS = 4096  # whose attempts are remembered until they end


class QueryLog:
    """Writes the lines of one gateway. Belongs to one event loop."""

    def __init__(self, slow_ms: float = DEFAULT_SLOW_MS, *, every: bool = False) -> None:
        """
        Args:
            slow_ms: a query that takes longer is slow.
            every: log each query, with its text.
        """
        self._slow_ms = slow_ms
        self._every = every
        self._attempts: OrderedDict[str, list[ShardCallFinished]] = OrderedDict()
        self._second, self._lines, self._left_out = 0, 0, 0

    def shard_call_finished(self, event: ShardCallFinished) -> None:
        """Remember an attempt, until its query ends."""
        self._attempts.setdefault(request_id(), []).append(event)
        if len(self._attempts) > MOST_REQUESTS:  # of losers that were cancelled after the end
            self._attempts.popitem(last=False)

    def query_finished(self, event: QueryFinished) -> None:
        """Write a line, if the query is slow or every one is wanted."""
        attempts = self._attempts.pop(request_id(), [])
        slow = event.total_ms >= self._slow_ms
        if not self._every and not (slow and self._may_write()):
            return
        about = _about(event, attempts)
        if event.error and (self._every or event.status != "INVALID_ARGUMENT"):
            about["error"] = event.error  # one of a wrong value may repeat what was sent
        if self._left_out:
            about["left_out"], self._left_out = self._left_out, 0
        if self._every:
            about["text"] = query_text()
        level = logging.WARNING if slow else logging.INFO
        log.log(level, "slow query" if slow else "query", extra=fields(**about))

    def _may_write(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._lines = second, 0
        self._lines += 1
        if self._lines > LINES_PER_S:
            self._left_out += 1
            return False
        return True


def _about(event: QueryFinished, attempts: list[ShardCallFinished]) -> dict[str, Any]:
    about: dict[str, Any] = {
        "status": event.status,
        "total_ms": round(event.total_ms, 3),
        "stages_ms": {stage: round(ms, 3) for stage, ms in event.stages_ms.items()},
        "generation": event.generation,
        "k": event.k,
        "query_tokens": event.query_tokens,
        "text_chars": event.text_chars,
        "candidates": event.candidates,
        "scored": event.scored,
        "cached": event.cached,
        "shards": [_attempt(one, event.started) for one in attempts],
    }
    if event.params is not None:
        about["params"] = asdict(event.params)
    if (coverage := event.coverage) is not None:
        about["coverage"] = {
            "shards": f"{coverage.shards_ok}/{coverage.shards_asked}",
            "passages": f"{coverage.passages_searched}/{coverage.passages_total}",
        }
    return about


def _attempt(call: ShardCallFinished, query_started: float) -> dict[str, Any]:
    return {
        "shard": call.shard_id,
        "replica": call.replica_id,
        "method": call.kind,
        "status": call.status,
        "after_ms": round((call.started - query_started) * 1e3, 3),
        "ms": round(call.elapsed_ms, 3),
        **({"search_ms": round(call.search_ms, 3)} if call.search_ms else {}),
        **({"hedge": True} if call.hedge else {}),
    }
