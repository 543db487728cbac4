"""Queries that are asked again as soon as they are answered: what a service can do at all."""

from __future__ import annotations

import asyncio
import time

from loadgen.open_loop import Ask

TIMEOUT_S = 30.0


async def saturation(ask: Ask, queries: int, *, seconds: float, at_once: int) -> float:
    """Answers a second of a closed loop of so many at once.

    Args:
        queries: how many different ones `ask` knows.
    """
    until = time.monotonic() + seconds
    answered = 0

    async def again(number: int) -> None:
        nonlocal answered
        turn = 0
        while time.monotonic() < until:
            number, turn = (number + at_once) % queries, turn + 1
            await ask(turn, number, TIMEOUT_S)
            answered += 1

    began = time.monotonic()
    await asyncio.gather(*(again(number) for number in range(at_once)))
    return answered / (time.monotonic() - began)
