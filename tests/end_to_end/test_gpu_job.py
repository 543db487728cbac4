"""The index job where workers compute on a device: torch's CPU stands in for a GPU, and Ray is told
of GPUs that are not there to see whom it gives them to."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import pytest
from index_bytes import contents

from cluster.index_job import build_index
from colbert_core.index import open_generation, read_current, verify

MODEL = Path(__file__).parents[1] / "fixtures" / "encoder_parity" / "stanford" / "checkpoint"
WORDS = ["late", "interaction", "keeps", "one", "vector", "for", "each", "token", "of", "texts"]
SETTINGS = {"model": MODEL, "shards": 1, "bits": 2, "seed": 3, "centroids": 40}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two units."""
    rng = random.Random(5)
    records = [
        {"_id": f"p{i}", "text": " ".join(rng.choices(WORDS, k=5 + i % 40))} for i in range(120)
    ]
    file = tmp_path_factory.mktemp("corpus") / "a.jsonl"
    file.write_bytes(b"\n".join(orjson.dumps(record) for record in records))
    return file


@pytest.fixture
def on_device(monkeypatch):
    """Jobs compute as on a GPU, on torch's CPU device."""
    for name in ("cluster.job", "cluster.job_stages"):
        monkeypatch.setattr(f"{name}.device_of", lambda _plan: "torch:cpu")


@pytest.fixture(scope="module")
def on_processor(ray_cluster, corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "index"
    build_index(corpus, out, workers=1, **SETTINGS)
    return out


@pytest.mark.usefixtures("on_device")
def test_an_index_built_on_a_device(on_processor, corpus, tmp_path):
    """The same passages, codes and residuals, but for roundings; and the kind of device counts."""
    out = tmp_path / "index"
    build_index(corpus, out, workers=2, **SETTINGS)
    verify(out)
    assert read_current(on_processor).generation != read_current(out).generation
    (ours,), (theirs,) = (open_generation(path).shards for path in (on_processor, out))
    assert ours.ids() == theirs.ids()
    np.testing.assert_array_equal(ours.offsets.read(0, 121), theirs.offsets.read(0, 121))
    first, second = (shard.compressed(0, 120)[0] for shard in (ours, theirs))
    assert (first.codes_T == second.codes_T).mean() > 0.99
    assert (first.residuals_TB == second.residuals_TB).mean() > 0.99


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster", "on_device")
def test_any_number_of_workers_gives_the_same_bytes(corpus, tmp_path):
    for workers in (1, 2):
        build_index(corpus, tmp_path / str(workers), workers=workers, **SETTINGS)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


SCRIPT = """
import json, os, sys, tempfile
import ray
from cluster import worker_slots
from cluster.plan import plan_workers
from workers.encoder import WorkerSettings

class Reporter:
    def __init__(self, settings):
        self.settings = settings
    def load(self):
        return os.environ.get("CUDA_VISIBLE_DEVICES"), len(ray.get_gpu_ids())

worker_slots.EncoderWorker = Reporter
ray.init(address="local", num_cpus=6, num_gpus=2, include_dashboard=False, log_to_driver=False,
         object_store_memory=100 << 20, _temp_dir=tempfile.mkdtemp(prefix="t-", dir="/tmp"))
seen = {}
for count in (2, 4):
    plan = plan_workers(count, None, None, text_bytes=1, cpus=6, gpus=2)
    slots = worker_slots.Slots(plan, WorkerSettings("", "", None, "cuda", 1), print)
    slots.resize()
    seen[count] = ray.get([slot.loading for slot in slots], timeout=100)
    slots.close()
ray.shutdown()
print("SEEN", json.dumps(seen))
"""


@pytest.mark.long
def test_each_worker_sees_the_gpu_that_is_its_own():
    """Two GPUs: one for each of two workers, one for two of four."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=200, check=True
    )
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("SEEN")]
    seen = json.loads(line.removeprefix("SEEN"))
    assert sorted(seen["2"]) == [["0", 1], ["1", 1]]
    assert sorted(seen["4"]) == [["0", 1], ["0", 1], ["1", 1], ["1", 1]]
