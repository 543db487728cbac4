"""The encoder: order, determinism, normal vectors, projection, precision, and what it refuses."""

import numpy as np
import pytest
import text_checkpoints as tiny
import torch
from safetensors.torch import load_file, save_file

from colbert_core.errors import InvalidInput, ModelError
from colbert_core.text import EncodedPassages, Encoder, fit_pca
from colbert_core.text.aliases import DEFAULT_MODEL
from colbert_core.text.checkpoint import read_checkpoint
from colbert_core.text.network import Network

SENTENCE = "late interaction keeps one vector for each token, of a query and of the passage"


def load(folder, **options):
    return Encoder.load(
        folder, **{"device": "cpu", "threads": 1, "precision": "float32", **options}
    )


def texts_of_many_lengths(count, seed=0):
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(SENTENCE.split(), random.integers(0, 60))) for _ in range(count)]


def rows_of(encoded: EncodedPassages):
    return np.split(encoded.vectors_TD, np.cumsum(encoded.doclens_N)[:-1])


@pytest.fixture(scope="module")
def stanford(tmp_path_factory):
    return load(tiny.stanford(tmp_path_factory.mktemp("stanford")))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return load(tiny.plain(tmp_path_factory.mktemp("plain")))


def test_shapes_and_types(stanford):
    encoded = stanford.encode_passages(["hello, world", "", "hello " * 40])
    assert encoded.vectors_TD.dtype == np.float32
    assert encoded.doclens_N.dtype == np.int32
    assert encoded.doclens_N.tolist() == [5, 3, 20]
    assert encoded.vectors_TD.shape == (28, stanford.dim) == (28, 16)
    assert encoded.truncated_N.tolist() == [False, False, True]
    np.testing.assert_allclose(np.linalg.norm(encoded.vectors_TD, axis=1), 1, atol=1e-5)
    (query,) = stanford.encode_queries(["hello"])
    assert query.shape == (12, 16)
    assert query.dtype == np.float32


def test_vectors_left_on_the_device_are_the_same_ones_rounded(stanford):
    texts = [*texts_of_many_lengths(60), "", "hello " * 40]
    for some in (texts, texts[:1], []):
        encoded, there = stanford.encode_passages(some), stanford.encode_on_device(some)
        expected = torch.from_numpy(encoded.vectors_TD.astype(np.float16))
        assert there.vectors_TD.dtype == torch.float16
        assert torch.equal(there.vectors_TD, expected)
        np.testing.assert_array_equal(there.doclens_N, encoded.doclens_N)
        np.testing.assert_array_equal(there.truncated_N, encoded.truncated_N)


def test_no_texts(stanford):
    encoded = stanford.encode_passages([])
    assert encoded.vectors_TD.shape == (0, 16)
    assert encoded.doclens_N.shape == encoded.truncated_N.shape == (0,)
    assert stanford.encode_queries([]) == []


def test_order_is_kept_though_batches_are_sorted(stanford):
    texts = texts_of_many_lengths(300)
    together = rows_of(stanford.encode_passages(texts))
    for text, rows in list(zip(texts, together, strict=True))[::13]:
        np.testing.assert_allclose(rows, stanford.encode_passages([text]).vectors_TD, atol=2e-5)


def test_the_same_list_gives_the_same_bits(stanford):
    texts = texts_of_many_lengths(120)
    first, second = stanford.encode_passages(texts), stanford.encode_passages(texts)
    assert np.array_equal(first.vectors_TD, second.vectors_TD)


def test_a_query_depends_on_its_text_alone(plain):
    texts = texts_of_many_lengths(20)
    together = plain.encode_queries(texts)
    for text, rows in zip(texts, together, strict=True):
        assert np.array_equal(rows, plain.encode_queries([text])[0])


def test_what_is_skipped_is_still_read(stanford):
    with_comma = stanford.encode_passages(["hello, world"]).vectors_TD
    without = stanford.encode_passages(["hello world"]).vectors_TD
    assert with_comma.shape == without.shape
    assert not np.allclose(with_comma, without, atol=1e-3)


def test_a_stanford_checkpoint_in_words(tmp_path):
    """Checked against the transformer run by hand: backbone, projection, norm."""
    folder = tiny.stanford(tmp_path)
    weights = load_file(folder / "model.safetensors")
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig.from_pretrained(folder)).eval()
    backbone = {k.removeprefix("bert."): v for k, v in weights.items() if k.startswith("bert.")}
    model.load_state_dict(backbone)
    ids = [tiny.id_of(t) for t in ("[CLS]", "[unused1]", "hello", ".", "[SEP]")]
    with torch.inference_mode():
        hidden = model(torch.tensor([ids]))[0][0] @ weights["linear.weight"].T
    expected = torch.nn.functional.normalize(hidden, dim=-1)[[0, 1, 2, 4]].numpy()
    np.testing.assert_allclose(
        load(folder).encode_passages(["hello."]).vectors_TD, expected, atol=2e-5
    )


def test_pickled_weights_are_the_same(tmp_path):
    first = load(tiny.stanford(tmp_path / "safe"))
    pickled = load(tiny.stanford(tmp_path / "pickled", pickled=True))
    assert np.array_equal(first.encode_queries(["hello"])[0], pickled.encode_queries(["hello"])[0])


def test_dense_layers_of_pylate(tmp_path):
    layers = [
        {
            "out_features": 32,
            "bias": True,
            "activation_function": "torch.nn.modules.activation.Tanh",
        },
        {"in_features": 32, "out_features": 8, "use_residual": True},
    ]
    folder = tiny.pylate(tmp_path / "with", layers)
    encoder = load(folder)
    bare = load(tiny.plain(tmp_path / "bare"))
    assert encoder.dim == 8
    first = load_file(folder / "1_Dense" / "model.safetensors")
    second = load_file(folder / "2_Dense" / "model.safetensors")
    network = Network.load(read_checkpoint(folder), torch.device("cpu"), torch.float32)
    hidden = torch.randn(3, tiny.HIDDEN)
    x = torch.tanh(hidden @ first["linear.weight"].T + first["linear.bias"])
    expected = x @ second["linear.weight"].T + x @ second["residual.weight"].T
    for layer in network._head:
        hidden = layer(hidden)
    torch.testing.assert_close(hidden, expected)
    assert bare.dim == tiny.HIDDEN


def test_projection_is_a_matrix_and_a_norm(plain):
    texts = texts_of_many_lengths(20)
    raw = plain.encode_passages(texts).vectors_TD
    matrix = fit_pca(raw, 8)
    projected = plain.project(matrix)
    assert projected.dim == 8
    assert plain.dim == tiny.HIDDEN
    product = raw @ matrix
    expected = product / np.linalg.norm(product, axis=1, keepdims=True)
    np.testing.assert_allclose(projected.encode_passages(texts).vectors_TD, expected, atol=2e-5)
    assert projected.encode_queries(["hello"])[0].shape == (3, 8)
    assert projected.identity != plain.identity
    with pytest.raises(InvalidInput, match="already has a projection"):
        projected.project(np.eye(8, dtype=np.float32))


@pytest.mark.parametrize(
    "matrix", [np.zeros((7, 8)), np.zeros(24), np.full((24, 8), np.nan)], ids=["rows", "1d", "nan"]
)
def test_a_projection_that_does_not_fit_is_refused(plain, matrix):
    with pytest.raises(InvalidInput, match="does not fit"):
        plain.project(matrix.astype(np.float32))


def test_bfloat16_is_close(plain, tmp_path):
    texts = texts_of_many_lengths(30)
    low = load(tiny.plain(tmp_path), precision="bfloat16").encode_passages(texts).vectors_TD
    cosine = (low * plain.encode_passages(texts).vectors_TD).sum(axis=1)
    assert low.dtype == np.float32
    assert cosine.mean() > 0.999


def test_display_tokens_and_spans_line_up_with_the_rows(stanford):
    text = "Unaffordable, hello"
    assert stanford.query_tokens("Hello")[:5] == ["[CLS]", "[unused0]", "Hello", "[SEP]", "[MASK]"]
    assert stanford.query_tokens("Unaffordable")[2:5] == ["Un", "##afford", "##able"]
    assert len(stanford.query_tokens(text)) == len(stanford.encode_queries([text])[0])
    spans = stanford.passage_spans(text)
    assert len(spans) == len(stanford.encode_passages([text]).vectors_TD)
    assert [text[a:b] for a, b in spans if a >= 0] == ["Un", "afford", "able", "hello"]


def test_a_query_that_is_too_long_can_be_told(stanford):
    assert not stanford.query_truncated("hello")
    assert stanford.query_truncated("hello " * 30)


@pytest.mark.parametrize("texts", [["a", None], [b"bytes"], [3]])
def test_texts_must_be_strings(stanford, texts):
    with pytest.raises(InvalidInput, match="not a string"):
        stanford.encode_passages(texts)
    with pytest.raises(InvalidInput, match="not a string"):
        stanford.encode_queries(texts)


def test_half_a_surrogate_pair_is_refused(stanford):
    assert len(stanford.encode_queries(["\U0001f642"])) == 1
    with pytest.raises(InvalidInput, match="text 1 holds half of a UTF-16 surrogate"):
        stanford.encode_queries(["fine", "not \ud83d fine"])


def test_one_string_is_not_a_list_of_texts(stanford):
    with pytest.raises(InvalidInput, match="list of texts"):
        stanford.encode_passages("hello")


def test_vectors_that_are_not_finite_are_an_error(tmp_path):
    folder = tiny.stanford(tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["linear.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    encoder = load(folder)
    with pytest.raises(ModelError, match="not finite"):
        encoder.encode_passages(["hello"])
    with pytest.raises(ModelError, match="not finite"):
        encoder.encode_on_device(["hello"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "no-such-device"}, "device 'no-such-device'"),
        ({"threads": 0}, "threads 0"),
        ({"precision": "int3"}, "precision 'int3'"),
        ({"doc_maxlen": 2}, "doc_maxlen 2"),
    ],
)
def test_impossible_options_are_refused(tmp_path, options, message):
    folder = tiny.plain(tmp_path)
    with pytest.raises(InvalidInput, match=message):
        load(folder, **options)


def test_the_embedded_default_model(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    encoder = Encoder.load(threads=1)
    assert encoder.identity.source == DEFAULT_MODEL
    assert encoder.identity.format == "pylate"
    assert (encoder.dim, encoder.identity.doc_maxlen) == (128, 512)
    assert encoder.identity.query_maxlen == 256
    question, answer, other = (
        encoder.encode_queries([text])[0]
        for text in ("how do birds fly", "wings give birds lift", "the price of copper rose")
    )
    assert (question @ answer.T).max(axis=1).sum() > (question @ other.T).max(axis=1).sum()


def test_a_query_has_the_same_bits_whatever_the_number_of_threads():
    encoder = Encoder.load("minilm-untrained")
    queries = ["lazy merge of sorted streams " * repeats for repeats in (1, 8, 40)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = encoder.encode_queries(queries)
        torch.set_num_threads(2)
        together = encoder.encode_queries(queries)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
