"""The pool's loop without Ray: a pretended cluster whose workers fail, die, hang or never start."""

from __future__ import annotations

from collections import deque

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from cluster import worker_pool
from cluster.plan import WorkerPlan
from cluster.worker_pool import Work, WorkerPool
from colbert_core.errors import JobFailed, ModelError, Unavailable
from workers.encoder import LoadedModel, WorkerSettings

READY = LoadedModel({}, 1)


class PretendedRay:
    """`ray` as the pool uses it: each reference holds its outcome; waiting advances the clock."""

    def __init__(self, outcome):
        self.now = 0.0
        self.killed = []
        self._outcome = outcome  # (actor number, method, args) → value, error, or None: never
        self._actors = 0

    def remote(self, _cls):
        return self

    def options(self, **options):
        assert (options["max_restarts"], options["max_task_retries"]) == (0, 0)
        pool = self

        class Creator:
            def remote(self, _settings):
                pool._actors += 1
                return PretendedActor(pool, pool._actors)

        return Creator()

    def wait(self, refs, *, num_returns, timeout):
        ready = [ref for ref in refs if ref.outcome is not None][:num_returns]
        self.now += 0.1 if ready else timeout
        return ready, [ref for ref in refs if ref not in ready]

    def get(self, ref, *, timeout):
        if isinstance(ref.outcome, BaseException):
            raise ref.outcome
        return ref.outcome

    def kill(self, actor, *, no_restart):
        self.killed.append(actor.number)

    def cluster_resources(self):
        return {"CPU": 2.0}

    def available_resources(self):
        return {}


class Ref:
    def __init__(self, outcome):
        self.outcome = outcome


class PretendedActor:
    def __init__(self, ray, number):
        self.number, self._ray = number, ray

    def __getattr__(self, method):
        actor = self

        class Method:
            def remote(self, *args):
                return Ref(actor._ray._outcome(actor.number, method, args))

        return Method()


@pytest.fixture
def pool_on(monkeypatch):
    """A pool over pretended outcomes: (pool, notes, ray)."""

    def make(outcome, workers=2):
        ray, notes = PretendedRay(outcome), []
        monkeypatch.setattr(worker_pool, "ray", ray)
        monkeypatch.setattr(worker_pool.time, "monotonic", lambda: ray.now)
        settings = WorkerSettings("", "", None, None, 1)
        return WorkerPool(WorkerPlan(workers, 1.0, 0.0, 1), settings, notes.append), notes, ray

    return make


def works(count):
    return [Work(("w", i), f"unit {i}", "compress", (i,)) for i in range(count)]


def raised(cause):
    return RayTaskError("compress", "traceback", cause)


def run(pool, count):
    done = []
    with pool:
        pool.run(works(count), lambda work, result: done.append((work.args[0], result)))
    return sorted(done)


def test_everything_is_done_once(pool_on):
    pool, notes, ray = pool_on(lambda _actor, method, args: READY if method == "load" else args[0])
    assert run(pool, 9) == [(i, i) for i in range(9)]
    assert notes == []
    assert sorted(ray.killed) == [1, 2]


def test_a_lost_worker_is_replaced_and_its_work_goes_back(pool_on):
    def outcome(actor, method, args):
        if method == "load":
            return READY
        return ActorDiedError() if actor == 1 else args[0]

    pool, notes, ray = pool_on(outcome)
    assert run(pool, 9) == [(i, i) for i in range(9)]
    assert len(notes) == 1
    assert "a worker was lost over unit 0" in notes[0]
    assert ray.killed[0] == 1


def test_what_waits_behind_a_deadly_piece_is_not_blamed(pool_on):
    """Unit 0 kills every worker; only unit 0 is named, though unit 1 was lost as often."""

    def outcome(_actor, method, args):
        if method == "load":
            return READY
        return ActorDiedError() if args[0] in (0, 1) else args[0]

    pool, notes, _ = pool_on(outcome, workers=1)
    with pytest.raises(JobFailed, match=r"unit 0 lost its worker 5 times"):
        run(pool, 2)
    assert all("unit 0" in note for note in notes)


def test_an_exception_is_tried_three_times(pool_on):
    tries = deque()

    def outcome(_actor, method, args):
        if method == "load":
            return READY
        if args[0] == 3:
            tries.append(3)
            return raised(OSError(28, "No space left on device"))
        return args[0]

    pool, notes, _ = pool_on(outcome)
    with pytest.raises(JobFailed, match=r"unit 3 failed 3 times.*No space left"):
        run(pool, 9)
    assert (len(tries), len(notes)) == (3, 2)


def test_a_model_that_cannot_be_loaded_is_its_own_error(pool_on):
    pool, _, _ = pool_on(lambda *_: raised(ModelError("no such model")))
    with pool, pytest.raises(ModelError, match="no such model"):
        pool.first_model()


@pytest.mark.parametrize("method", ["first_model", "run"])
def test_workers_that_never_start_end_the_wait(pool_on, method):
    pool, _, _ = pool_on(lambda *_: None)
    call = pool.first_model if method == "first_model" else lambda: pool.run(works(1), print)
    with pool, pytest.raises(Unavailable, match=r"no worker was ready after 6\d\d s.*2 CPU"):
        call()


def test_workers_that_die_while_loading_end_the_job(pool_on):
    pool, notes, _ = pool_on(lambda *_: ActorDiedError())
    with pool, pytest.raises(Unavailable, match=r"6 workers ended while they loaded"):
        pool.first_model()
    assert len(notes) == 5


def test_a_straggler_is_named_once_and_waited_for(pool_on):
    def outcome(_actor, method, args):
        return READY if method == "load" else None

    pool, notes, ray = pool_on(outcome, workers=1)
    wait = ray.wait

    def wait_for_an_hour(refs, **options):
        if ray.now > 3600:
            for ref in refs:
                ref.outcome = "late"
        return wait(refs, **options)

    ray.wait = wait_for_an_hour
    assert run(pool, 1) == [(0, "late")]
    assert len(notes) == 1
    assert "unit 0 has taken" in notes[0]
