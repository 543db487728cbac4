"""What low-rank training adds, without the backbone: the same vectors in far fewer bytes."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from text_checkpoints import plain
from torch.testing import assert_close

from colbert_core.errors import ModelError
from colbert_core.text import Encoder
from colbert_core.text.checkpoint import read_checkpoint
from colbert_core.train.starting import StudentSettings, start_student
from colbert_core.train.student import Student

CPU = torch.device("cpu")
SAMPLE = ["late interaction keep one vector", "hello world, for each token of the passage"]
TEXTS = ["keep one vector, for each", "hello"]
FORMS = {"stanford": {}, "pylate": {"markers": False, "augment": False}}


@pytest.fixture(scope="module", params=FORMS)
def made(request, tmp_path_factory):
    """A base, and a student on it whose additions are not zero: whole, and in little."""
    folder = tmp_path_factory.mktemp("additions")
    base = plain(folder / "base")
    form = StudentSettings(dim=16, query_maxlen=12, doc_maxlen=20, **FORMS[request.param])
    start_student(base, folder / "start", form)
    student = Student.load(folder / "start", CPU)
    student.use_lora(4)
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=chance)
    student.save(folder / "whole")
    sha256 = read_checkpoint(base).sha256()
    student.save_additions(folder / "little", str(base), sha256)
    return folder


def passages(folder, **options):
    return Encoder.load(folder, device="cpu", **options).encode_passages(TEXTS).vectors_TD


def test_they_give_the_vectors_of_the_whole(made):
    np.testing.assert_allclose(
        passages(made / "little", precision="float32"),
        passages(made / "whole", precision="float32"),
        atol=2e-3,  # the additions are kept in float16
    )
    assert not np.allclose(passages(made / "little"), passages(made / "start"), atol=0.05)
    names = {path.name for path in (made / "little").rglob("*")}
    assert {"additions.json", "additions.safetensors", "tokenizer.json"} <= names
    assert not (made / "little" / "model.safetensors").exists()


def test_training_goes_on_from_them(made, tmp_path):
    start_student(made / "little", tmp_path / "again", StudentSettings())
    assert not list((tmp_path / "again").rglob("additions*"))
    np.testing.assert_allclose(
        passages(tmp_path / "again", precision="float32"),
        passages(made / "little", precision="float32"),
        atol=1e-6,
    )


def test_they_add_to_additions(made, tmp_path):
    """A run on top of one in little names that as its base."""
    start_student(made / "little", tmp_path / "start", StudentSettings())
    student = Student.load(tmp_path / "start", CPU)
    student.use_lora(2)
    sha256 = read_checkpoint(made / "little").sha256()
    student.save_additions(tmp_path / "more", str(made / "little"), sha256)
    assert_close(passages(tmp_path / "more"), passages(made / "little"), atol=1e-6, rtol=0)


def test_another_base_is_refused(made, tmp_path):
    shutil.copytree(made / "little", tmp_path / "little")
    about = json.loads((tmp_path / "little" / "additions.json").read_text())
    other = plain(tmp_path / "other", seed=5)
    (tmp_path / "little" / "additions.json").write_text(json.dumps(about | {"base": str(other)}))
    with pytest.raises(ModelError, match="install the version that it was trained on"):
        Encoder.load(tmp_path / "little")


@pytest.mark.parametrize(
    ("about", "says"),
    [("{}", "does not name its base"), ('{"base": 3}', "base is 3"), ("[", "cannot be read")],
)
def test_what_does_not_say_to_what_it_adds_is_refused(made, tmp_path, about, says):
    shutil.copytree(made / "little", tmp_path / "little")
    (tmp_path / "little" / "additions.json").write_text(about)
    with pytest.raises(ModelError, match=says):
        Encoder.load(tmp_path / "little")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda tensors, up: tensors.pop(up.replace(".up", ".down")), "no other half"),
        (
            lambda tensors, up: tensors.update({up: tensors[up][1:].clone()}),
            r"\(\d+, \d+\) here",
        ),
        (lambda tensors, up: tensors.update({"x.up": tensors[up].clone()}), "x.up has no other"),
    ],
)
def test_what_does_not_fit_is_refused(made, tmp_path, spoil, says):
    shutil.copytree(made / "little", tmp_path / "little")
    path = tmp_path / "little" / "additions.safetensors"
    tensors = load_file(path)
    spoil(tensors, next(name for name in tensors if name.endswith(".up")))
    save_file(tensors, path)
    with pytest.raises(ModelError, match=says):
        Encoder.load(tmp_path / "little")


def test_half_a_file_is_refused(made, tmp_path):
    shutil.copytree(made / "little", tmp_path / "little")
    path = tmp_path / "little" / "additions.safetensors"
    path.write_bytes(path.read_bytes()[:99])
    with pytest.raises(ModelError, match="cannot be read"):
        Encoder.load(tmp_path / "little")


def test_its_identity_changes_with_what_is_added(made, tmp_path):
    shutil.copytree(made / "little", tmp_path / "little")
    before = read_checkpoint(made / "little").sha256()
    assert read_checkpoint(tmp_path / "little").sha256() == before
    path = tmp_path / "little" / "additions.safetensors"
    tensors = load_file(path)
    up = next(name for name in tensors if name.endswith(".up"))
    save_file(tensors | {up: tensors[up] * 2}, path)
    assert read_checkpoint(tmp_path / "little").sha256() != before
