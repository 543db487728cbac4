"""Each loss equals a plain computation, in one process, across two, in chunks, and PyLate's own."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from text_checkpoints import stanford
from torch.testing import assert_close
from two_processes import CPU, Passages, examples_of, gradients

from colbert_core.train import losses
from colbert_core.train.batch_teachers import BatchTeachers
from colbert_core.train.batches import collate
from colbert_core.train.maxsim import Vectors, all_scores, joined, own_scores
from colbert_core.train.step import Objective, add_gradients
from colbert_core.train.student import Student
from colbert_core.train.tuple_set import Example

PARITY = Path(__file__).parent.parent / "fixtures" / "train_parity"
TUPLES = [
    ["late interaction", ["keep one vector", "hello world", "the query"], [3.0, 1.0, 2.5]],
    ["one vector for each", ["token of query and passage", "the café", "hello"], [0.5, -1, 0]],
    ["hello", ["hello world", "keep the query", "un token, each; passage"], [9.0, 1.0, 1.5]],
    ["affordable", ["unaffordable", "late token of the passage", "keep one"], [1.0, 0.8, 0.1]],
]
OBJECTIVES = {
    "kl": {"in_batch_weight": 0.0},
    "kl, min-max": {"in_batch_weight": 0.0, "min_max": True, "temperature": 0.5},
    "in-batch": {"weight": 0.0},
    "both": {"weight": 0.7, "in_batch_weight": 0.3},
    "v1": {"loss": "v1", "in_batch_weight": 0.5},
    "teachers of the batch": {"in_batch_weight": 0.5, "temperature": 2.0},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return stanford(tmp_path_factory.mktemp("student") / "checkpoint")


@pytest.fixture(scope="module", params=OBJECTIVES)
def name(request):
    return request.param


def objective_of(name, folder):
    judges = (f"maxsim:{folder}", "bm25:none") if name == "teachers of the batch" else ()
    return Objective(**OBJECTIVES[name], batch_teachers=judges)


@pytest.fixture
def student(folder):
    return Student.load(folder, CPU)


@pytest.fixture
def batch(student):
    return collate(examples_of(TUPLES), student.tokenizer, CPU)


def plain_score(queries, passages, query, passage):
    """MaxSim as one would write it first, token by token, in float64."""
    q = queries.x_BLD[query][queries.mask_BL[query]].double()
    p = passages.x_BLD[passage][passages.mask_BL[passage]].double()
    return sum(max((token * other).sum() for other in p) for token in q)


def plain_loss(queries, passages, keys, teacher, objective, batch_teacher=None):
    """The whole objective, query by query, from the definitions."""
    n_way = len(passages) // len(queries)
    total = 0.0
    for query in range(len(queries)):
        own = [n_way * query + way for way in range(n_way)]
        scores = torch.stack([plain_score(queries, passages, query, at) for at in own])
        if objective.loss == "v1":
            pairs = [torch.stack([scores[0], other]).softmax(0)[0].log() for other in scores[1:]]
            part = -sum(pairs) / len(pairs)
        else:
            if objective.min_max:
                scores = (scores - scores.min()) / (scores.max() - scores.min() + 1e-8)
            p = (teacher[query].double() / objective.temperature).softmax(0)
            part = (p * (p.log() - (scores / objective.temperature).softmax(0).log())).sum()
        forbidden = {keys[at].item() for at in own}
        others = [at for at in range(len(passages)) if keys[at].item() not in forbidden]
        ranked = torch.stack(
            [plain_score(queries, passages, query, at) for at in [own[0], *others]]
        )
        in_batch = -ranked.softmax(0)[0].log()
        if batch_teacher is not None:
            once = [at for at, key in enumerate(keys) if key not in keys[:at]]
            p = (batch_teacher[query, once].double() / objective.temperature).softmax(0)
            scores = torch.stack([plain_score(queries, passages, query, at) for at in once])
            part = part + (p * (p.log() - (scores / objective.temperature).log_softmax(0))).sum()
        total = total + objective.weight * part + objective.in_batch_weight * in_batch
    return total / len(queries)


def test_losses_and_gradients_are_those_of_the_definition(folder, student, batch, name):
    objective = objective_of(name, folder)
    loss, found = gradients(student, examples_of(TUPLES), objective)
    student.zero_grad()
    # In double precision from the vectors on, so that what differs is rounding of ours.
    encoded = student.encode(batch.queries), student.encode(batch.passages)
    queries, passages = (vectors.with_x(vectors.x_BLD.double()) for vectors in encoded)
    judged = batch_scores(objective) if objective.batch_teachers else None
    plain = plain_loss(queries, passages, batch.keys_M, batch.teacher_BW, objective, judged)
    plain.backward()
    assert loss == pytest.approx(plain.item(), abs=1e-5)
    # Min-max divides by the spread of a tuple's scores, and magnifies the rounding of these.
    close = 2e-5 if objective.min_max else 1e-5
    for parameter, tensor in student.named_parameters():
        if tensor.grad is not None:
            np.testing.assert_allclose(found[parameter], tensor.grad.numpy(), atol=close)
    assert max(np.abs(gradient).max() for gradient in found.values()) > 1e-3


def batch_scores(objective):
    examples = examples_of(TUPLES)
    return BatchTeachers(objective.batch_teachers, Passages(examples), CPU).scores(examples)


def test_teachers_of_a_batch_are_averaged_at_their_deviations(folder):
    """Late interaction's own scores where no words are shared, and BM25 cannot tell."""
    both = objective_of("teachers of the batch", folder)
    late, bm25, mean = (
        batch_scores(replace(both, batch_teachers=names)).double()
        for names in (both.batch_teachers[:1], both.batch_teachers[1:], both.batch_teachers)
    )
    assert late.shape == bm25.shape == (4, 12)
    away = [scores - scores.mean(1, keepdim=True) for scores in (late, bm25)]
    deviations = [part.square().mean().sqrt() for part in away]
    wanted = deviations[0] * (away[0] / deviations[0] + away[1] / deviations[1]) / 2
    assert_close(mean - mean.mean(1, keepdim=True), wanted, atol=1e-4, rtol=0)
    strangers = [Example("zzz", one.passages, one.scores_W) for one in examples_of(TUPLES)]
    judges = BatchTeachers(both.batch_teachers, Passages(strangers), CPU)
    assert torch.equal(
        judges.scores(strangers),
        BatchTeachers(both.batch_teachers[:1], None, CPU).scores(strangers),
    )


def test_the_same_text_is_no_negative_of_itself(batch):
    """ "hello world" stands in two tuples: in the first as a negative, in the third as positive."""
    scores = torch.arange(4 * 12, dtype=torch.float32).view(4, 12).requires_grad_()
    losses.in_batch(scores, batch.keys_M, 0, 3).backward()
    left_out = (scores.grad == 0).nonzero().tolist()
    own = [[query, 3 * query + way] for query in range(4) for way in (1, 2)]
    assert sorted(left_out) == sorted([*own, [0, 6], [2, 1]])


@pytest.mark.parametrize("chunk", [1, 3, 5])
def test_chunks_change_nothing(folder, student, name, chunk):
    objective = objective_of(name, folder)
    whole, wanted = gradients(student, examples_of(TUPLES), objective)
    loss, found = gradients(student, examples_of(TUPLES), objective, chunk)
    assert loss == pytest.approx(whole, abs=1e-5)
    assert wanted.keys() == found.keys()
    for parameter, gradient in wanted.items():
        np.testing.assert_allclose(found[parameter], gradient, atol=1e-5)


def test_two_processes_are_one(tmp_path, folder, student):
    """Real processes, each with half of the queries; negatives and gradients cross between them."""
    cases = {"both": None, "in-batch": None, "v1": 2, "kl, min-max": None}
    cases |= {"teachers of the batch": 3}
    objectives = {name: objective_of(name, folder) for name in cases}
    processes = []
    for rank in range(2):
        request = tmp_path / f"request-{rank}.json"
        values = {
            "checkpoint": str(folder),
            "tuples": TUPLES,
            "objectives": {
                name: (asdict(objectives[name]), chunk) for name, chunk in cases.items()
            },
            "rank": rank,
            "world": 2,
            "rendezvous": str(tmp_path / "rendezvous"),
            "out": str(tmp_path / f"{rank}.npz"),
        }
        request.write_text(json.dumps(values))
        program = [sys.executable, str(Path(__file__).with_name("two_processes.py"))]
        processes.append(subprocess.Popen([*program, str(request)]))
    assert [process.wait(timeout=200) for process in processes] == [0, 0]
    for name in cases:
        loss, wanted = gradients(student, examples_of(TUPLES), objectives[name])
        for rank in range(2):
            with np.load(tmp_path / f"{rank}.npz") as found:
                assert float(found[f"{name}/loss"]) == pytest.approx(loss, abs=1e-5)
                for parameter, gradient in wanted.items():
                    np.testing.assert_allclose(found[f"{name}/{parameter}"], gradient, atol=1e-5)


@pytest.mark.parametrize("case", ["plain", "min_max"])
def test_one_step_is_pylates(case):
    """The same batch, settings and optimiser (tests/fixtures/train_parity/README.md)."""
    about = json.loads((PARITY / "about.json").read_text())
    checkpoint = PARITY.parent / "encoder_parity" / "pylate" / "checkpoint"
    student = Student.load(checkpoint, CPU)
    examples = [
        Example(one["query"], tuple(one["documents"]), np.float32(one["scores"]))
        for one in about["tuples"]
    ]
    objective = Objective(in_batch_weight=0.0, min_max=case == "min_max")
    optimizer = torch.optim.AdamW(student.parameters(), about["learning_rate"], weight_decay=0.0)
    loss = add_gradients(student, collate(examples, student.tokenizer, CPU), objective)
    ours = {
        name.replace("backbone.", "0.auto_model.").replace("projection.", "1.linear."): parameter
        for name, parameter in student.named_parameters()
    }
    with np.load(PARITY / "expected.npz") as expected:
        names = [key for key in expected if key.startswith(f"{case}/gradient/")]
        assert len(names) == 4
        assert loss.total.item() == pytest.approx(float(expected[f"{case}/loss"]), abs=1e-5)
        for key in names:
            gradient = ours[key.removeprefix(f"{case}/gradient/")].grad.numpy()
            np.testing.assert_allclose(gradient, expected[key], atol=1e-5)
            assert np.abs(gradient).max() > 1e-3
        optimizer.step()
        for key in names:
            after = ours[key.removeprefix(f"{case}/gradient/")].detach().numpy()
            wanted = expected[key.replace("/gradient/", "/after/")]
            # Adam divides by the gradient's size, so that what rounds to 0 may go either way.
            sure = np.abs(expected[key]) > 1e-6
            np.testing.assert_allclose(after[sure], wanted[sure], atol=1e-5)


def test_low_precision_vectors_are_summed_in_float32():
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(6, 40, 16), dim=-1).bfloat16()
    mask = torch.ones(6, 40, dtype=torch.bool)
    low, high = Vectors(vectors, mask), Vectors(vectors.float(), mask)
    with torch.autocast("cpu", torch.bfloat16):
        own, every = own_scores(low, low), all_scores(low, low)
    assert own.dtype == every.dtype == torch.float32
    torch.testing.assert_close(own, own_scores(high, high), rtol=0, atol=1e-5)
    torch.testing.assert_close(every, all_scores(high, high), rtol=0, atol=1e-5)


def test_padding_does_not_score():
    torch.manual_seed(0)
    short = Vectors(-torch.rand(2, 3, 4), torch.ones(2, 3, dtype=torch.bool))
    query = Vectors(torch.rand(1, 2, 4), torch.ones(1, 2, dtype=torch.bool))
    alone = own_scores(query, short)
    padded = joined([short, Vectors(torch.rand(2, 9, 4), torch.ones(2, 9, dtype=torch.bool))])
    first = Vectors(padded.x_BLD[:2], padded.mask_BL[:2])
    assert (alone < 0).all()
    torch.testing.assert_close(own_scores(query, first), alone)
    torch.testing.assert_close(all_scores(query, first), alone)
