"""Turns of a shard server: never more at once, first come, first served, none lost."""

from __future__ import annotations

import random
import threading
import time

from workers.turns import Turns

WAIT_S = 20.0


def test_who_waits_longest_is_next() -> None:
    turns = Turns(1)
    assert turns.take(0.0)
    came: list[int] = []

    def waits(number: int) -> None:
        assert turns.take(WAIT_S)
        came.append(number)
        turns.give()

    threads = []
    for number in range(5):
        threads.append(threading.Thread(target=waits, args=(number,)))
        threads[-1].start()
        while len(turns._waiting) <= number:
            time.sleep(0.001)
    turns.give()
    for thread in threads:
        thread.join(WAIT_S)
    assert came == [0, 1, 2, 3, 4]


def test_who_stops_waiting_takes_none() -> None:
    turns = Turns(1)
    assert turns.take(0.0)
    began = time.monotonic()
    assert not turns.take(0.05)
    assert time.monotonic() - began >= 0.05
    assert not turns.take(-1.0)
    turns.give()
    assert turns.take(0.0)
    assert not turns.take(0.0)


def test_none_is_lost_and_never_too_many_work() -> None:
    turns, lock = Turns(3), threading.Lock()
    working = most = 0

    def works(seed: int) -> None:
        nonlocal working, most
        chance = random.Random(seed)
        for _ in range(200):
            if not turns.take(chance.choice([0.0, 1e-4, 1e-3, WAIT_S])):
                continue
            with lock:
                working += 1
                most = max(most, working)
            time.sleep(chance.choice([0.0, 2e-4]))
            with lock:
                working -= 1
            turns.give()

    threads = [threading.Thread(target=works, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == 3
    assert [turns.take(0.0) for _ in range(4)] == [True, True, True, False]
