"""k-means on pretended workers: whatever their number, order and losses, the same bytes."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
from ray.exceptions import ObjectLostError

from cluster import workers_sample
from cluster.workers_sample import WorkersSample
from colbert_core.codec import rotation_of, train_codec, train_codec_on
from colbert_core.errors import JobFailed
from colbert_core.index.manifest import FileEntry
from workers import sample_worker
from workers.encoder import UnitResult
from workers.sample_worker import SampleWorker, project
from workers.units import Staging, UnitVectors

LENGTHS = {2: 6000, 3: 17, 5: 0, 8: 9000, 9: 2500, 11: 4000, 12: 1, 17: 3500}
"""Vectors of each sampled unit: a few, none, one, many."""
MODEL_DIM, DIM, CENTROIDS = 24, 16, 2100


class Ref(int):
    """A reference; as an argument of its own, it is resolved for the worker."""


class Store:
    """Ray's object store: what a worker put goes with it."""

    def __init__(self):
        self.objects = {}
        self.busy = "driver"

    def put(self, value):
        ref = Ref(len(self.objects))
        self.objects[ref] = (self.busy, value)
        return ref

    def get(self, ref, *, timeout):
        assert timeout > 0
        if self.objects[ref] is None:
            raise ObjectLostError("00", None, "")
        value = self.objects[ref][1]
        if isinstance(value, np.ndarray):
            value.flags.writeable = False  # as what lies in shared memory
        return value

    def lose(self, owner):
        for ref, held in self.objects.items():
            if held is not None and held[0] == owner:
                self.objects[ref] = None


class Pool:
    """A worker pool in this process, which does its works in a random order.

    Args:
        lost: how likely a worker ends with a piece of work, and with all that it put.
    """

    def __init__(self, workers, staging, store, seed=0, lost=0.0):
        self.slots = SimpleNamespace(ready=list(range(workers)), open=list(range(workers)))
        self.calls = []
        self._staging, self._store, self._lost = staging, store, lost
        self._rng = random.Random(seed)

    def run(self, works, on_done):
        left = list(works)
        self._rng.shuffle(left)
        while left:
            work = left.pop()
            worker = SampleWorker()
            worker._staging = self._staging
            self._store.busy = self._rng.choice(self.slots.ready)
            args = [
                self._store.get(arg, timeout=1) if isinstance(arg, Ref) else arg
                for arg in work.args
            ]
            self.calls.append(work.method)
            result = getattr(worker, work.method)(*args)
            owner, self._store.busy = self._store.busy, "driver"
            if self._rng.random() < self._lost:
                self._store.lose(owner)
                left.append(work)
            else:
                on_done(work, result)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A staging folder with the kept vectors of sampled units, float16."""
    staging = Staging(tmp_path_factory.mktemp("staging"))
    staging.create()
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((900, MODEL_DIM))
    for unit, length in LENGTHS.items():
        vectors = centres[rng.integers(0, 900, length)] + 0.4 * rng.standard_normal((length, 24))
        vectors *= np.linspace(2, 0.1, MODEL_DIM)  # something for PCA to find
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors_TD = (vectors / norms).astype(np.float16)
        staging.write_vectors(unit, UnitVectors(vectors_TD, np.array([length], np.int32), 0))
    return staging


@pytest.fixture
def store(monkeypatch):
    store = Store()
    monkeypatch.setattr(workers_sample, "ray", store)
    monkeypatch.setattr(sample_worker, "ray", store)
    return store


def units(staging, lengths=LENGTHS):
    entry = FileEntry(0, "")
    return [UnitResult(unit, 1, length, 0, (), entry) for unit, length in lengths.items()]


def train(staging, pool, lengths=LENGTHS):
    with workers_sample.workers_sample(pool, staging, units(staging, lengths)) as sample:
        projection = sample.projection(MODEL_DIM, DIM, 7)
        rotation_DD = rotation_of("tartan", DIM, 7)
        sample.prepare(projection, rotation_DD)
        codec = train_codec_on(
            sample,
            rotation_DD,
            name="tartan",
            bits=2,
            centroids=CENTROIDS,
            total_tokens=1,
            seed=7,
        )
    assert not list(staging.folder.glob("sample-*"))
    return projection, codec


def bytes_of(trained):
    projection, codec = trained
    arrays = (projection, codec.centroids_CD, codec.tables.levels, codec.tables.alpha)
    return [array.tobytes() for array in (*arrays, codec.tables.beta)]


@pytest.fixture(scope="module")
def alone(kept):
    """What one process makes of the same vectors, without any worker; and the projection."""
    with pytest.MonkeyPatch.context() as patch:
        store = Store()
        patch.setattr(workers_sample, "ray", store)
        patch.setattr(sample_worker, "ray", store)
        projection, codec = train(kept, Pool(1, kept, store))
    parts = [project(kept.vectors(unit).vectors_TD, projection) for unit in LENGTHS]
    memory = train_codec(iter(parts), bits=2, centroids=CENTROIDS, total_tokens=1, seed=7)
    assert bytes_of((projection, memory)) == bytes_of((projection, codec))
    return projection, memory


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_any_number_of_workers_gives_the_bytes_of_one_process(
    kept, store, alone, workers, monkeypatch
):
    monkeypatch.setattr(workers_sample, "_UNITS_AT_ONCE", workers)
    monkeypatch.setattr(sample_worker, "BLOCK_BYTES", (50_000 * workers,) * 2)
    pool = Pool(workers, kept, store, seed=workers)
    assert bytes_of(train(kept, pool)) == bytes_of(alone)
    assert ("add" in pool.calls) == (workers == 7)


def test_workers_that_are_lost_cost_time_alone(kept, store, alone, monkeypatch):
    """One piece in five is lost, and with it sums that were made already."""
    monkeypatch.setattr(workers_sample, "FAN_IN", 2)
    pool = Pool(5, kept, store, seed=1, lost=0.2)
    quiet = Pool(5, kept, store, seed=1)
    assert bytes_of(train(kept, pool)) == bytes_of(alone)
    train(kept, quiet)
    assert pool.calls.count("assign") > 1.2 * quiet.calls.count("assign")


def test_the_number_of_workers_may_change_between_rounds(kept, store, alone):
    pool = Pool(4, kept, store)
    run = pool.run

    def changing(works, on_done):
        pool.slots.ready = list(range(len(pool.calls) % 5))
        pool._rng.seed(0)
        pool.slots.ready = pool.slots.ready or [0]
        run(works, on_done)

    pool.run = changing
    assert bytes_of(train(kept, pool)) == bytes_of(alone)


def test_sums_that_never_arrive_end_the_job(kept, store, monkeypatch):
    monkeypatch.setattr(workers_sample, "MAX_LOSSES", 1)
    pool = Pool(2, kept, store)
    run = pool.run

    def losing(works, on_done):
        run(works, on_done)
        for worker in (0, 1):
            store.lose(worker)

    pool.run = losing
    with pytest.raises(JobFailed, match="of the sample were lost with their workers"):
        train(kept, pool)


def test_rows_come_in_the_order_asked_for(kept, store):
    pool = Pool(3, kept, store)
    with workers_sample.workers_sample(pool, kept, units(kept)) as sample:
        sample.prepare(None, None)
        total = sum(LENGTHS.values())
        assert len(sample) == total
        every = sample.rows(np.arange(total))
        for which in ([total - 1, 0, 0, 6016, 6017, 9999], [5]):
            which_M = np.array(which, np.int64)
            found, wanted = sample.rows(which_M), every[which_M]
            assert np.array_equal(found.values_TD, wanted.values_TD)
            assert np.array_equal(found.scales_T, wanted.scales_T)


def test_vectors_that_are_not_there_or_not_as_written_end_the_job(kept, store):
    with pytest.raises(JobFailed, match=r"has 25,018 vectors and 25,017 were written"):
        train(kept, Pool(2, kept, store), {**LENGTHS, 12: 0})
    with pytest.raises(JobFailed, match=r"000099.npz: a worker wrote this file, but it is not"):
        train(kept, Pool(2, kept, store), {**LENGTHS, 99: 5})


def test_what_a_killed_driver_left_is_removed(kept, store):
    (kept.folder / "sample-dead").mkdir()
    (kept.folder / "sample-dead" / "000001.rows").write_bytes(b"old")
    with workers_sample.workers_sample(Pool(1, kept, store), kept, units(kept)) as sample:
        assert isinstance(sample, WorkersSample)
        assert len(list(kept.folder.glob("sample-*"))) == 1
        assert not (kept.folder / "sample-dead").exists()
