"""Which tuples a step takes, for any number of workers, and its learning rate."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colbert_core.errors import InvalidInput
from colbert_core.train.schedule import batch_ordinals, learning_rate, share


@settings(max_examples=60)
@given(st.integers(1, 200), st.integers(1, 20), st.integers(0, 5))
def test_an_epoch_takes_every_tuple_at_most_once_and_leaves_less_than_a_batch(tuples, batch, seed):
    if batch > tuples:
        with pytest.raises(InvalidInput, match=f"only {tuples} tuples"):
            batch_ordinals(0, tuples=tuples, batch=batch, seed=seed)
        return
    per_epoch = tuples // batch
    epochs = []
    for epoch in range(2):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        taken = [batch_ordinals(s, tuples=tuples, batch=batch, seed=seed) for s in steps]
        epochs.append(np.concatenate(taken).tolist())
        assert len(set(epochs[-1])) == per_epoch * batch
        assert set(epochs[-1]) <= set(range(tuples))
    if tuples > 20:
        assert epochs[0] != epochs[1]


def test_seeds_give_other_orders_and_the_same_seed_the_same():
    first, again, other = (
        batch_ordinals(3, tuples=100, batch=10, seed=seed).tolist() for seed in (1, 1, 2)
    )
    assert first == again != other


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))
def test_parts_are_the_same_for_any_number_of_workers(parts, workers, own):
    ordinals = np.arange(parts * workers * own) * 7
    for part in range(parts):
        shares = [share(ordinals, part, parts, rank, workers) for rank in range(workers)]
        assert {len(one) for one in shares} == {own}
        together = np.concatenate(shares).tolist()
        assert together == share(ordinals, part, parts, 0, 1).tolist()


def test_the_rate_rises_then_falls_to_nothing():
    rates = [learning_rate(step, peak=2.0, steps=10, warmup=4) for step in range(11)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4] == 2.0
    assert rates[10] == 0.0
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))
    assert learning_rate(0, peak=2.0, steps=10, warmup=0) == 2.0
