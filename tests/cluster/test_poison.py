"""The search for passages that fail alone: exact, whatever fails, in few tries."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from cluster.poison import PoisonSearch


def search(rows, fails):
    """Run a search; gives what it blames, and how many tries it took."""
    hunt, tries = PoisonSearch(rows), 0
    queue = hunt.begin()
    while queue:
        assert not hunt.finished
        probe = queue.pop()
        tries += 1
        queue += hunt.failed(probe) if fails(probe) else hunt.passed(probe)
    assert hunt.finished
    return hunt.poisoned, tries


@given(st.integers(1, 300), st.data())
def test_every_poisoned_passage_is_found_and_no_other(count, data):
    bad = data.draw(st.sets(st.integers(0, count - 1), max_size=6))
    rows = tuple(range(0, 3 * count, 3))
    bad = {3 * row for row in bad}
    found, _ = search(rows, lambda probe: bool(bad & set(probe)))
    assert found == tuple(sorted(bad))


def test_one_of_many_takes_few_tries():
    _, tries = search(range(2048), lambda probe: 1234 in probe)
    assert tries <= 2 * math.log2(2048) + 2


def test_passages_that_fail_only_together_are_not_blamed():
    found, _ = search(range(64), lambda probe: len(probe) > 20)
    assert found == ()


def test_a_passage_whose_worker_was_lost_once_is_not_blamed():
    failures = iter([True, True, True, True, True, True, True])
    found, _ = search(range(1), lambda probe: next(failures))
    assert found == (0,)
    once = iter([True, False])
    found, _ = search(range(1), lambda probe: next(once))
    assert found == ()
