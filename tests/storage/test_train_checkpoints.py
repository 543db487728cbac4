"""A training run whose checkpoints lie in a bucket, and whose workers may become fewer."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from text_checkpoints import WORDS, plain

from cluster.progress import SilentProgress
from cluster.train_evaluation import evaluate_checkpoint
from cluster.train_job import TrainJob, train
from cluster.train_places import require_place
from colbert_core.errors import InvalidInput
from colbert_core.text import Encoder
from colbert_core.train.run_log import read_log
from colbert_core.train.starting import StudentSettings
from colbert_core.train.trainer import TrainSettings

STEPS = 6


@pytest.fixture
def job(tmp_path: Path) -> TrainJob:
    chance, words = random.Random(0), WORDS.split()
    with (tmp_path / "tuples.jsonl").open("w") as file:
        for _ in range(24):
            texts = [" ".join(chance.sample(words, 6)) for _ in range(3)]
            row = {"query": texts[0][:9], "documents": texts, "scores": [3.0, 0.5, 0.1]}
            file.write(json.dumps(row) + "\n")
    return TrainJob(
        tuples=(str(tmp_path / "tuples.jsonl"),),
        corpus=None,
        queries=None,
        n_way=None,
        model=str(plain(tmp_path / "model")),
        student=StudentSettings(dim=16, query_maxlen=12, doc_maxlen=20),
        settings=TrainSettings(steps=STEPS, batch=8, rate=1e-3, warmup=2, lora=2),
        workers=2,
        min_workers=1,
        checkpoints=None,
        chunk=None,
        checkpoint_every=3,
        evaluate_every=STEPS,
        data=None,
        split="dev",
        max_failures=1,
    )


@pytest.mark.long
@pytest.mark.timeout(300)
def test_checkpoints_in_a_bucket_are_gone_on_from(job, tmp_path, environment, s3, bucket):
    out = tmp_path / "out"
    data = judged(tmp_path / "beir")
    job = replace(job, checkpoints=f"s3://{bucket}/runs", data=data)
    first = train(job, out, SilentProgress())
    assert [row["step"] for row in read_log(out) if "loss" in row] == list(range(1, STEPS + 1))
    keys = [one["Key"] for one in s3.list_objects_v2(Bucket=bucket)["Contents"]]
    assert any(key.startswith(f"runs/{first.name}/checkpoint_") for key in keys)
    assert not (out / "runs").exists()
    whole, start = projection(out / "checkpoint"), projection(out / "start")
    torch.testing.assert_close(projection(out / "additions", "additions"), whole)
    # The same command finds the run done, in the bucket, and writes the model anew, blended.
    second = train(replace(job, blend=0.5), out, SilentProgress())
    assert second.name == first.name
    assert len([row for row in read_log(out) if "loss" in row]) == STEPS
    half = start.lerp(whole, 0.5)
    torch.testing.assert_close(projection(out / "checkpoint"), half)
    torch.testing.assert_close(projection(out / "additions", "additions"), half)
    assert second.first == first.first
    assert second.last == evaluate_checkpoint(out / "checkpoint", data=data, split="dev")
    Encoder.load(out / "additions")


def projection(folder: Path, file: str = "model") -> torch.Tensor:
    return load_file(folder / f"{file}.safetensors")["linear.weight"]


def judged(folder: Path) -> Path:
    """A collection of 40 passages, each with a query of three of its words."""
    chance, words = random.Random(1), WORDS.split()
    texts = [chance.sample(words, 6) for _ in range(40)]
    (folder / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", texts), ("queries", [text[:3] for text in texts])):
        lines = [json.dumps({"_id": f"{n}", "text": " ".join(row)}) for n, row in enumerate(rows)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    judgements = "".join(f"{n}\t{n}\t1\n" for n in range(len(texts)))
    (folder / "qrels" / "dev.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judgements}")
    return folder


def test_a_bucket_that_is_not_there_is_refused(environment):
    with pytest.raises(InvalidInput, match=r"--checkpoints s3://no-such-bucket/runs: they cannot"):
        require_place("s3://no-such-bucket/runs")


@pytest.mark.parametrize("place", ["/proc/nowhere", "klingon://x/y", "s3://"])
def test_places_that_cannot_be_written_are_refused(place, environment):
    with pytest.raises(InvalidInput, match="they cannot be written there"):
        require_place(place)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"blend": 0.0}, "blend 0: above 0"),
        ({"blend": float("nan")}, "blend nan: above 0"),
        ({"min_workers": 5, "workers": 5}, "batch 8 cannot be cut into 1 parts for 5 workers"),
        ({"passage_tokens": 0}, "passage-tokens 0: doc_maxlen 0"),
        ({"passage_tokens": 4000}, "passage-tokens 4000: doc_maxlen 4000"),
    ],
)
def test_what_cannot_be_run_is_refused_before_ray_is_needed(job, tmp_path, change, says):
    if "passage_tokens" in change:
        change = {"settings": replace(job.settings, **change)}
    with pytest.raises(InvalidInput, match=says):
        train(replace(job, **change), tmp_path / "out", SilentProgress())
    assert not (tmp_path / "out" / "runs").exists()


def test_more_workers_than_the_range_allows(job, tmp_path):
    with pytest.raises(InvalidInput, match="min-workers 3: between 1 and the 2 of --workers"):
        train(replace(job, min_workers=3), tmp_path / "out", SilentProgress())
