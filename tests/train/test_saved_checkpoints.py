"""What training saves is loaded by colbert-ai and PyLate, and gives them the vectors it gives us.

The frozen checkpoints were saved by `saved.py` and read by both libraries
(tests/fixtures/train_parity/README.md); what is saved now has the same form.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from saved import FORMS, TEXTS, make

from colbert_core.text import Encoder

FIXTURES = Path(__file__).parent.parent / "fixtures" / "train_parity"
READ_BY = sorted(path.relative_to(FIXTURES).as_posix() for path in FIXTURES.glob("saved_*/*.npz"))


def test_both_libraries_have_read_them():
    stanford = [f"saved_stanford/{library}.npz" for library in ("colbert", "pylate")]
    assert ["saved_pylate/pylate.npz", *stanford] == READ_BY


@pytest.mark.parametrize("read_by", READ_BY)
def test_libraries_give_the_vectors_that_we_give(read_by):
    encoder = Encoder.load(FIXTURES / Path(read_by).parent / "checkpoint", precision="float32")
    assert json.loads((FIXTURES / "texts.json").read_text()) == TEXTS
    passages = encoder.encode_passages(TEXTS)
    ours = {
        "query": encoder.encode_queries(TEXTS),
        "passage": np.split(passages.vectors_TD, np.cumsum(passages.doclens_N)[:-1]),
    }
    with np.load(FIXTURES / read_by) as theirs:
        for kind, vectors in ours.items():
            assert [len(rows) for rows in vectors] == theirs[f"{kind}_lengths"].tolist()
            np.testing.assert_allclose(
                np.concatenate(vectors), theirs[f"{kind}_vectors"], atol=2e-5
            )


@pytest.mark.parametrize("name", FORMS)
def test_what_is_saved_now_has_the_form_of_what_they_read(tmp_path, name):
    frozen = FIXTURES / name / "checkpoint"
    made = make(tmp_path / "checkpoint", FORMS[name])
    files = [p.relative_to(frozen).as_posix() for p in sorted(frozen.rglob("*")) if p.is_file()]
    assert [p.relative_to(made).as_posix() for p in sorted(made.rglob("*")) if p.is_file()] == files
    for file in files:
        if file.endswith(".safetensors"):
            before, after = load_file(frozen / file), load_file(made / file)
            assert {key: value.shape for key, value in before.items()} == {
                key: value.shape for key, value in after.items()
            }
            assert after.keys()
        elif file not in ("vocab.txt", "tokenizer.json"):
            before, after = (json.loads((place / file).read_text()) for place in (frozen, made))
            assert _lasting(after) == _lasting(before), file


def _lasting(config):
    """Without what transformers writes of its own version and of how the start was loaded."""
    passing = ("transformers_version", "local_files_only")
    if not isinstance(config, dict):
        return config
    return {key: value for key, value in config.items() if key not in passing}
