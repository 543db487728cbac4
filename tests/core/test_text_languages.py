"""Models with an adapter for each language: which one reads, and what an index remembers of it."""

import numpy as np
import pytest
import text_checkpoints as tiny
import torch
from safetensors.torch import load_file

from colbert_core.errors import InvalidInput, ModelMismatch
from colbert_core.text import Encoder, ModelIdentity
from colbert_core.text.checkpoint import read_checkpoint
from colbert_core.text.languages import Languages

SENTENCE = "late interaction keep one vector"


def load(folder, **options):
    return Encoder.load(folder, device="cpu", threads=1, precision="float32", **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.xmod(tmp_path_factory.mktemp("xmod"))


def test_an_adapter_is_chosen_by_name_or_by_language():
    languages = Languages("m", ("en_XX", "de_DE", "zh_CN", "zh_TW"), "de_DE")
    assert [languages.choose(one) for one in ("en_XX", "en", "zh_TW", None)] == [
        "en_XX",
        "en_XX",
        "zh_TW",
        "de_DE",
    ]
    for asked, says in (
        ("fr", "no adapters of that name; give one of en_XX, de_DE, zh_CN, zh_TW"),
        ("zh", "2 adapters of that name; give one of zh_CN, zh_TW"),
        ("", "de_DE"),
    ):
        if asked:
            with pytest.raises(InvalidInput, match=says):
                languages.choose(asked)
        else:
            assert languages.choose(asked) == says
    with pytest.raises(InvalidInput, match="say which with --language: en_XX, de_DE"):
        Languages("m", ("en_XX", "de_DE")).choose(None)
    assert Languages("m").choose(None) is None
    with pytest.raises(InvalidInput, match="no adapters for languages"):
        Languages("m").choose("de")


def test_the_published_layout_gives_what_its_transformer_gives(folder):
    """Backbone under `roberta.`, `linear.weight`, the adapter of the language: run by hand."""
    from transformers import XmodConfig, XmodModel

    weights = load_file(folder / "model.safetensors")
    model = XmodModel(XmodConfig.from_pretrained(folder)).eval()
    model.load_state_dict(
        {k.removeprefix("roberta."): v for k, v in weights.items() if k.startswith("roberta.")}
    )
    ids = [tiny.id_of(t) for t in ("[CLS]", "[unused1]", "late", "vector", "[SEP]")]
    found = {}
    for language in ("en_XX", "de_DE"):
        model.set_default_language(language)
        with torch.inference_mode():
            hidden = model(torch.tensor([ids]))[0][0] @ weights["linear.weight"].T
        expected = torch.nn.functional.normalize(hidden, dim=-1).numpy()
        found[language] = load(folder, language=language).encode_passages(["late vector"])
        np.testing.assert_allclose(found[language].vectors_TD, expected, atol=2e-5)
    assert not np.allclose(found["en_XX"].vectors_TD, found["de_DE"].vectors_TD, atol=1e-2)


def test_one_encoder_reads_in_several_languages(folder):
    english = load(folder, language="en")
    german = english.in_language("de")
    assert (english.identity.language, german.identity.language) == ("en_XX", "de_DE")
    alone = load(folder, language="de_DE")
    assert german.identity == alone.identity
    for one, other in zip(
        german.encode_queries([SENTENCE, "hello"]),
        alone.encode_queries([SENTENCE, "hello"]),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    projected = english.project(np.eye(16, 8, dtype=np.float32)).in_language("de")
    assert projected.dim == 8
    with pytest.raises(InvalidInput, match="language 'fr'"):
        english.in_language("fr")


def test_an_index_remembers_the_language_and_refuses_another(folder):
    german = load(folder, language="de")
    stored = german.identity.to_dict()
    assert stored["language"] == "de_DE"
    assert ModelIdentity.from_dict(stored) == german.identity
    again = Encoder.for_index(stored, device="cpu", precision="float32")
    np.testing.assert_array_equal(
        again.encode_queries([SENTENCE])[0], german.encode_queries([SENTENCE])[0]
    )
    with pytest.raises(ModelMismatch, match="language: de_DE against en_XX"):
        german.identity.require_same(load(folder, language="en").identity)


def test_a_model_without_adapters_has_no_language(tmp_path):
    encoder = load(tiny.plain(tmp_path))
    assert "language" not in encoder.identity.to_dict()  # which older programs would refuse
    with pytest.raises(InvalidInput, match="no adapters"):
        load(tmp_path, language="de")
    with pytest.raises(InvalidInput, match="no adapters"):
        encoder.in_language("de")


def test_what_was_saved_without_a_language_must_be_told_one(tmp_path):
    folder = tiny.xmod(tmp_path)
    assert read_checkpoint(folder).languages.names == tiny.LANGUAGES
    with pytest.raises(InvalidInput, match="say which with --language: en_XX, de_DE"):
        load(folder)
    tiny.edit(folder / "config.json", default_language="zh_CN")
    assert load(folder).identity.language == "zh_CN"
