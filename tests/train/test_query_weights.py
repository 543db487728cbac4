"""Weights of query tokens: what they are, that they reach every query, and nothing else."""

import numpy as np
import pytest
import torch
from text_checkpoints import WORDS, id_of, plain
from torch.testing import assert_close

from cluster.progress import SilentProgress
from cluster.train_start import Beginning, start_run
from colbert_core.errors import ModelError
from colbert_core.text import Encoder, fit_pca
from colbert_core.text.checkpoint import read_checkpoint
from colbert_core.text.query_weights import idf_weights, read_query_weights, write_query_weights
from colbert_core.text.tokens import TextTokenizer
from colbert_core.train.batches import collate
from colbert_core.train.preparing import prepare_tuples
from colbert_core.train.starting import StudentSettings, start_student
from colbert_core.train.step import Objective, add_gradients
from colbert_core.train.student import Student
from colbert_core.train.trainer import TrainSettings
from colbert_core.train.tuple_set import Example

CPU = torch.device("cpu")
FORMS = {"stanford": {}, "pylate": {"markers": False, "augment": False}}
PASSAGES = ["late vector for the query", "the token of the passage", "hello the world"]
QUERY = "the query, hello"


@pytest.fixture(scope="module", params=FORMS)
def checkpoints(request, tmp_path_factory):
    """The same model without weights and with some."""
    folder = tmp_path_factory.mktemp("weights")
    form = StudentSettings(dim=16, query_maxlen=12, doc_maxlen=20, **FORMS[request.param])
    for name in ("without", "with"):
        start_student(plain(folder / "base"), folder / name, form)
    size = TextTokenizer(read_checkpoint(folder / "with")).vocabulary
    write_query_weights(folder / "with", np.linspace(0.1, 3.0, size, dtype=np.float32))
    return folder


def encoder(folder):
    return Encoder.load(folder, device="cpu", precision="float32")


def test_they_multiply_the_vectors_of_queries_alone(checkpoints):
    without, weighted = encoder(checkpoints / "without"), encoder(checkpoints / "with")
    weights_V = read_query_weights(checkpoints / "with", id_of("##able") + 1)
    texts = [QUERY, "hello", QUERY, ""]
    (tokens, *_) = weighted._tokenizer.queries(texts)
    for before_LD, after_LD in zip(
        without.encode_queries(texts), weighted.encode_queries(texts), strict=True
    ):
        norms_L = np.linalg.norm(after_LD, axis=1)
        assert_close(after_LD, before_LD * norms_L[:, None])
    first_LD = weighted.encode_queries(texts)[0]
    expected_L = weights_V[[tokens.ids[at] for at in tokens.kept]]
    assert_close(np.linalg.norm(first_LD, axis=1), expected_L)
    assert len(set(expected_L)) > 4
    passages = [one.encode_passages(PASSAGES).vectors_TD for one in (without, weighted)]
    assert np.array_equal(*passages)


def test_they_outlast_a_projection_and_name_another_model(checkpoints):
    without, weighted = encoder(checkpoints / "without"), encoder(checkpoints / "with")
    assert without.identity.weights_sha256 != weighted.identity.weights_sha256
    matrix = fit_pca(weighted.encode_passages(PASSAGES * 4).vectors_TD, 4)
    (whole_LD,), (small_LD,) = (
        one.encode_queries([QUERY]) for one in (weighted, weighted.project(matrix))
    )
    norms = [np.linalg.norm(Q_LD, axis=1) for Q_LD in (whole_LD, small_LD)]
    assert_close(norms[1], norms[0])


def test_idf_by_its_definition(tmp_path):
    tokenizer = TextTokenizer(read_checkpoint(plain(tmp_path)))
    weights_V = idf_weights(tokenizer, PASSAGES, ["the hello", "the"])
    the, hello, never = (weights_V[id_of(word)] for word in ("the", "hello", "keep"))
    assert hello / the == pytest.approx(np.sqrt(np.log(4 / 1.5) / np.log(4 / 3.5)))
    assert never / the == pytest.approx(np.sqrt(np.log(4 / 0.5) / np.log(4 / 3.5)))
    assert (2 * the + hello) / 3 == pytest.approx(1)
    assert all(weights_V[id_of(name)] == 1 for name in ("[CLS]", "[SEP]", "[MASK]"))
    assert (weights_V > 0).all()


def test_idf_without_words_to_go_by(tmp_path):
    """No query has a word of its own, and every passage is the same."""
    tokenizer = TextTokenizer(read_checkpoint(plain(tmp_path)))
    weights_V = idf_weights(tokenizer, ["the"] * 3, [""])
    assert np.isfinite(weights_V).all()
    assert (weights_V > 0).all()


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.ones(3, np.float16), "one float16 for each of the"),
        (np.ones(7), "float64"),
        ([0.0], "weight of id 5 is 0.0"),
        ([np.nan], "weight of id 5 is nan"),
        ([np.inf], "weight of id 5 is inf"),
        ([-1.0], "weight of id 5 is -1.0"),
        (b"\x93NUMPY", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_what_is_no_weight_is_refused(tmp_path, array, says):
    size = TextTokenizer(read_checkpoint(plain(tmp_path))).vocabulary
    path = tmp_path / "query_weights.npy"
    if isinstance(array, bytes):
        path.write_bytes(array)
    elif isinstance(array, list):
        weights_V = np.ones(size, np.float16)
        weights_V[5] = array[0]
        np.save(path, weights_V)
    else:
        np.save(path, array)
    with pytest.raises(ModelError, match=says):
        Encoder.load(tmp_path)


def test_a_student_scores_as_the_encoder_does(checkpoints):
    student = Student.load(checkpoints / "with", CPU)
    tokens = collate([Example(QUERY, tuple(PASSAGES), None)], student.tokenizer, CPU).queries
    with torch.no_grad():
        (found,) = student.weighted(student.encode(tokens), tokens).x_BLD
    (expected_LD,) = encoder(checkpoints / "with").encode_queries([QUERY])
    assert_close(found[tokens.kept_BL[0]].numpy(), expected_LD, atol=1e-5, rtol=0)


def test_gradients_in_chunks_are_those_of_the_whole(checkpoints):
    chance = np.random.default_rng(0)
    words = WORDS.split()
    text = lambda: " ".join(chance.choice(words, chance.integers(1, 9)))  # noqa: E731
    examples = [Example(text(), (text(), text()), np.float32([2, 1])) for _ in range(5)]
    found = []
    for folder, chunk in (("with", None), ("with", 2), ("without", None)):
        student = Student.load(checkpoints / folder, CPU)
        batch = collate(examples, student.tokenizer, CPU)
        loss = add_gradients(student, batch, Objective(), chunk=chunk)
        found.append((loss.total.item(), student.projection.weight.grad))
    (whole, whole_DH), (chunks, chunks_DH), (other, _) = found
    assert chunks == pytest.approx(whole, abs=1e-5)
    assert_close(chunks_DH, whole_DH, atol=1e-5, rtol=0)
    assert other != pytest.approx(whole, abs=1e-2)


def test_they_go_where_the_model_goes(checkpoints, tmp_path):
    student = Student.load(checkpoints / "with", CPU)
    student.save(tmp_path / "saved")
    start_student(checkpoints / "with", tmp_path / "started", StudentSettings())
    student.use_lora(2)
    sha256 = read_checkpoint(checkpoints / "base").sha256()
    student.save_additions(tmp_path / "little", str(checkpoints / "base"), sha256)
    expected = (checkpoints / "with" / "query_weights.npy").read_bytes()
    for name in ("saved", "started", "little"):
        assert (tmp_path / name / "query_weights.npy").read_bytes() == expected
        encoder(tmp_path / name).encode_queries([QUERY])


def test_a_run_that_weighs_queries_starts_with_those_of_its_passages(checkpoints, tmp_path):
    rows = tmp_path / "tuples.jsonl"
    rows.write_text('{"query": "the hello", "documents": ["the late world", "the token"]}\n')
    tuples = prepare_tuples(tmp_path / "made", [rows])

    def start(out, weigh):
        begin = Beginning(weigh_queries=weigh)
        model, settings = str(checkpoints / "with"), TrainSettings(steps=1, batch=1)
        start_run(
            tmp_path / out, model, StudentSettings(), settings, tuples, begin, SilentProgress()
        )
        return tmp_path / out / "start"

    kept, new = start("kept", False), start("new", True)
    size = id_of("##able") + 1
    before_V = read_query_weights(checkpoints / "with", size)
    assert np.array_equal(read_query_weights(kept, size), before_V)
    tokenizer = TextTokenizer(read_checkpoint(new))
    expected_V = idf_weights(tokenizer, ["the late world", "the token"], ["the hello"])
    assert_close(read_query_weights(new, size), expected_V, atol=1e-3, rtol=1e-3)
    assert not np.allclose(expected_V, before_V)
