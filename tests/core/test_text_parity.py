"""Our vectors are those of colbert-ai and pylate, for checkpoints that they saved themselves.

The fixtures say what each library computed (tests/fixtures/encoder_parity/README.md).
"""

import json
from pathlib import Path

import numpy as np
import pytest

from colbert_core.text import Encoder

FIXTURES = Path(__file__).parent.parent / "fixtures" / "encoder_parity"
CASES = sorted(path.parent.name for path in FIXTURES.glob("*/expected.npz"))


@pytest.fixture(scope="module", params=CASES)
def case(request):
    folder = FIXTURES / request.param
    encoder = Encoder.load(folder / "checkpoint", device="cpu", threads=1, precision="float32")
    texts = json.loads((folder / "texts.json").read_text())
    about = json.loads((folder / "about.json").read_text())
    with np.load(folder / "expected.npz") as expected:
        return encoder, texts, about, dict(expected)


def test_there_are_cases_of_both_libraries():
    assert {name.partition("_")[0] for name in CASES} == {"stanford", "pylate"}


def test_the_format_is_recognised(case):
    encoder, _, about, _ = case
    assert encoder.identity.format == about["format"]


def test_queries(case):
    encoder, texts, _, expected = case
    kept = [[tokens.ids[at] for at in tokens.kept] for tokens in encoder._tokenizer.queries(texts)]
    _same(encoder.encode_queries(texts), kept, expected, "query")


def test_passages(case):
    encoder, texts, _, expected = case
    kept = [[tokens.ids[at] for at in tokens.kept] for tokens in encoder._tokenizer.passages(texts)]
    encoded = encoder.encode_passages(texts)
    vectors = np.split(encoded.vectors_TD, np.cumsum(encoded.doclens_N)[:-1])
    _same(vectors, kept, expected, "document")


def _same(vectors, kept, expected, kind):
    assert [len(rows) for rows in vectors] == expected[f"{kind}_lengths"].tolist()
    assert np.concatenate(kept).tolist() == expected[f"{kind}_ids"].tolist()
    ours_TD, theirs_TD = np.concatenate(vectors), expected[f"{kind}_vectors"]
    cosine_T = (ours_TD * theirs_TD).sum(axis=1) / np.linalg.norm(theirs_TD, axis=1)
    assert cosine_T.min() > 0.9999
    np.testing.assert_allclose(ours_TD, theirs_TD, atol=2e-5)
