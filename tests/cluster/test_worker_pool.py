"""The pool's loop without Ray: a pretended cluster whose workers fail, die, hang or never start."""

from __future__ import annotations

from collections import deque
from itertools import count

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from cluster import worker_pool, worker_run, worker_slots
from cluster.plan import WorkerPlan
from cluster.worker_pool import WorkerPool
from cluster.worker_run import Work
from colbert_core.errors import EncodeFailed, JobFailed, ModelError, Unavailable
from workers.encoder import LoadedModel, WorkerSettings
from workers.units import Unit

READY = LoadedModel({}, 1)


class PretendedRay:
    """`ray` as the pool uses it: each reference holds its outcome; waiting advances the clock."""

    def __init__(self, outcome):
        self.now = 0.0
        self.killed = []
        self.cpus = 8.0
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
        finished = [ref for ref in refs if ref.outcome is not None]
        ready = sorted(finished, key=lambda ref: ref.number)[:num_returns]
        self.now += 0.1 if ready else timeout
        return ready, [ref for ref in refs if ref not in ready]

    def get(self, ref, *, timeout):
        if isinstance(ref.outcome, BaseException):
            raise ref.outcome
        return ref.outcome

    def kill(self, actor, *, no_restart):
        self.killed.append(actor.number)

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": self.cpus}}, {"Alive": False}]

    def cluster_resources(self):
        return {"CPU": 2.0}

    def available_resources(self):
        return {}


class Ref:
    numbers = count()

    def __init__(self, outcome):
        self.outcome = outcome
        self.number = next(self.numbers)  # what was begun first is done first


class PretendedActor:
    def __init__(self, ray, number):
        self.number, self._ray = number, ray

    def __getattr__(self, method):
        actor = self

        class Method:
            def remote(self, *args):
                outcome = actor._ray._outcome(actor.number, method, args)
                return outcome if isinstance(outcome, Ref) else Ref(outcome)

        return Method()


@pytest.fixture
def pool_on(monkeypatch):
    """A pool over pretended outcomes: (pool, notes, ray)."""

    def make(outcome, workers=2, most=None):
        ray, notes = PretendedRay(outcome), []
        monkeypatch.setattr(worker_pool, "ray", ray)
        monkeypatch.setattr(worker_run, "ray", ray)
        monkeypatch.setattr(worker_slots, "ray", ray)
        monkeypatch.setattr(worker_pool.time, "monotonic", lambda: ray.now)
        settings = WorkerSettings("", "", None, "cpu", 1)
        plan = WorkerPlan(workers, most or workers, 1.0, 0.0, 1)
        return WorkerPool(plan, settings, notes.append), notes, ray

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


def test_what_hangs_is_begun_again_and_the_first_to_finish_wins(pool_on):
    """Worker 1 hangs on its first piece; the other does it, and what waits behind it."""

    def outcome(actor, method, args):
        if method == "load":
            return READY
        return None if actor == 1 else args[0]

    pool, notes, ray = pool_on(outcome)
    assert run(pool, 9) == [(i, i) for i in range(9)]
    assert [note.split(";")[0] for note in notes] == [
        f"unit {number} takes long" for number in (0, 1)
    ]
    assert ray.killed[0] == 1  # what hangs does not outlast the stage


def test_a_copy_that_fails_after_the_piece_is_done_is_nobodys_business(pool_on):
    hanging = {}

    def outcome(actor, method, args):
        if method == "load":
            return READY
        if actor == 1:
            return hanging.setdefault(args[0], Ref(None))
        if args[0] == 1:  # unit 0 is done
            hanging[0].outcome = raised(OSError("too late"))
        return args[0]

    pool, notes, _ = pool_on(outcome)
    assert run(pool, 5) == [(i, i) for i in range(5)]
    assert all("takes long" in note for note in notes)


def test_workers_join_with_the_cluster(pool_on):
    """From 2 CPUs to 5 while it runs."""
    sizes = []

    def outcome(_actor, method, args):
        if method == "load":
            return READY
        sizes.append(len(pool.slots.open))
        if args[0] == 60:
            ray.cpus = 5.0
        return args[0]

    pool, notes, ray = pool_on(outcome, workers=1, most=99)
    ray.cpus = 2.0
    assert run(pool, 400) == [(i, i) for i in range(400)]
    assert (sizes[0], sizes[-1]) == (2, 5)
    assert pool.workers == 5
    assert not any("lost" in note for note in notes)


def test_a_node_that_leaves_takes_its_workers_along(pool_on):
    """Two of four workers are lost with their node: nothing is lost, and no one waits for it."""

    def outcome(actor, method, args):
        if method == "load":
            return None if actor > 4 else READY  # there is no room for more
        if args[0] >= 20:
            ray.cpus = 2.0
        return ActorDiedError() if args[0] >= 20 and actor in (3, 4) else args[0]

    pool, notes, ray = pool_on(outcome, workers=1, most=99)
    ray.cpus = 4.0
    done = []
    with pool:
        pool.run(works(300), lambda work, result: done.append(result))
        assert sorted(slot.number for slot in pool.slots.open) == [1, 2]
    assert sorted(done) == list(range(300))
    assert sum("a worker was lost" in note for note in notes) == 2


UNIT = Unit(0, 0, 16, 99, "a", "p")


def encoding(bad, failure):
    """Works over one unit, whose `bad` rows fail; and what the driver does about them."""

    def outcome(_actor, method, args):
        if method == "load":
            return READY
        rows = args[1] if method == "probe" else set(range(16)) - set(args[1])
        return failure() if bad & set(rows) else "done"

    def without(work, rows, cause):
        blamed.append((rows, type(cause).__name__))
        left = tuple(row for row in work.rows if row not in rows)
        return Work(work.key, work.name, work.method, (UNIT, rows), UNIT, left)

    blamed = []
    work = Work(("compress", 0), UNIT, "compress", (UNIT, ()), UNIT, tuple(range(16)))
    return outcome, work, without, blamed


@pytest.mark.parametrize(
    ("failure", "name"),
    [(lambda: raised(EncodeFailed("nan")), "EncodeFailed"), (ActorDiedError, "ActorDiedError")],
)
def test_passages_that_fail_are_found_and_left_out(pool_on, failure, name):
    outcome, work, without, blamed = encoding({3, 12}, failure)
    pool, notes, _ = pool_on(outcome)
    done = []
    with pool:
        pool.run([work], lambda work, result: done.append((work.args, result)), without)
    assert done == [((UNIT, (3, 12)), "done")]
    assert blamed == [((3, 12), name)]
    assert any("its halves are tried" in note for note in notes)


def test_a_unit_that_fails_as_a_whole_alone_fails_for_good(pool_on):
    """Each half passes: no passage is to blame, and after one more round the job ends."""

    def outcome(_actor, method, args):
        if method == "load":
            return READY
        return "done" if method == "probe" else ActorDiedError()

    _, work, without, blamed = encoding(set(), ActorDiedError)
    pool, notes, _ = pool_on(outcome)
    with pool, pytest.raises(JobFailed, match="lost its worker 5 times"):
        pool.run([work], print, without)
    assert blamed == []
    assert sum("it is tried again as a whole" in note for note in notes) == 1


def test_a_full_disk_is_no_passages_fault(pool_on):
    full = OSError(28, "No space left on device")
    outcome, work, without, blamed = encoding({3}, lambda: raised(full))
    pool, _, _ = pool_on(outcome)
    with pool, pytest.raises(JobFailed, match=r"failed 3 times.*No space"):
        pool.run([work], print, without)
    assert blamed == []
