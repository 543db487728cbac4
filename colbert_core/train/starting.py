"""What a run starts from: any encoder, or a late-interaction checkpoint, as one that is trained.

    start_student("minilm-untrained", folder, StudentSettings())

A late-interaction checkpoint keeps its rules, but for the lengths. A plain encoder gets markers,
query augmentation and a projection. With both of the first it becomes a checkpoint in Stanford's
format, which colbert-ai, PyLate and Tartan load; without one of them PyLate's format says so, and
colbert-ai, which has no such switch, does not load it. The projection begins as the PCA of the
encoder's own token vectors, so that the run starts from what the encoder knows; of those of random
words of its vocabulary, since a PCA of the run's texts forgets what is not spoken of in them
(docs/decisions/training.md).
"""

from __future__ import annotations

import json
import os
import shutil
import string
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from colbert_core.errors import InvalidInput, ModelError
from colbert_core.text.additions import ABOUT
from colbert_core.text.aliases import locate
from colbert_core.text.checkpoint import SMALL_FILES, Checkpoint, TextRules, read_checkpoint
from colbert_core.text.encoder import Encoder
from colbert_core.text.network import load_backbone, load_head
from colbert_core.text.projection import fit_pca
from colbert_core.text.tokens import TextTokenizer
from colbert_core.train.student import require_trainable, write_weights

MARKERS = ("[unused0]", "[unused1]")
DIM, QUERY_MAXLEN, DOC_MAXLEN = 128, 32, 180
_TEXTS_OF_WORDS = ((1000, 20), (2500, 5))  # so many texts of so many words
_OF_SENTENCES = (
    "modules.json",
    "config_sentence_transformers.json",
    "data_config.json",
    "README.md",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentSettings:
    """How the student reads; None leaves a late-interaction checkpoint's own, and gives a plain
    encoder what the paper has: 128 dimensions, markers, augmentation, 32 and 180 tokens.

    Attributes:
        dim: dimensions of the vectors.
        markers: put a marker before queries and another before passages.
        augment: fill queries up to `query_maxlen` with the mask token.
        query_maxlen, doc_maxlen: tokens, markers included.
        language: of the tuples, where the model has an adapter for each; becomes the default of
            the checkpoint.
    """

    dim: int | None = None
    markers: bool | None = None
    augment: bool | None = None
    query_maxlen: int | None = None
    doc_maxlen: int | None = None
    language: str | None = None


def start_student(
    model: str | os.PathLike[str], folder: Path, settings: StudentSettings
) -> Checkpoint:
    """Write the checkpoint that a run starts from; what is in the folder is replaced.

    Args:
        model: path, hub name or alias of an encoder.

    Raises:
        ModelError: the model cannot be loaded or trained.
        InvalidInput: a setting does not fit the model.
    """
    source = read_checkpoint(locate(model))
    language = source.languages.choose(settings.language)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if source.format == "plain":
        form, weight_DH = _from_encoder(source, model, folder, settings)
    else:
        form, weight_DH = _from_late_interaction(source, folder, settings)
    if language is not None:
        _edit(_inside(form, folder) / "config.json", {"default_language": language})
    backbone, _ = load_backbone(source, torch.float32)
    write_weights(form, folder, backbone, weight_DH)
    started = read_checkpoint(folder)
    _check_lengths(started, settings)
    return started


def _from_late_interaction(
    source: Checkpoint, folder: Path, settings: StudentSettings
) -> tuple[Checkpoint, torch.Tensor]:
    """Copy everything but the weights, with the lengths that are asked for."""
    require_trainable(source)
    (layer,) = load_head(source)
    rules = source.rules
    asked = (
        ("dim", settings.dim, layer.weight.shape[0]),
        ("markers", settings.markers, rules.passage_marker is not None),
        ("augmentation", settings.augment, rules.expand_queries),
    )
    for name, wanted, own in asked:
        if wanted is not None and wanted != own:
            raise InvalidInput(
                f"{name} {wanted}: {source.folder} is a late-interaction checkpoint with {own}, "
                "which stays; leave the option out, or start from a plain encoder"
            )
    for place in {source.folder, source.transformer, *source.dense}:
        target = folder / place.relative_to(source.folder)
        target.mkdir(parents=True, exist_ok=True)
        for pattern in SMALL_FILES:
            for file in place.glob(pattern):
                if not file.name.endswith(".index.json") and file.name != ABOUT:
                    shutil.copyfile(file, target / file.name)
    name, keys = ("artifact.metadata", ("query_maxlen", "doc_maxlen"))
    if source.format == "pylate":
        name, keys = ("config_sentence_transformers.json", ("query_length", "document_length"))
    lengths = zip(keys, (settings.query_maxlen, settings.doc_maxlen), strict=True)
    _edit(folder / name, {key: value for key, value in lengths if value is not None})
    return source, layer.weight


def _from_encoder(
    source: Checkpoint,
    model: str | os.PathLike[str],
    folder: Path,
    settings: StudentSettings,
) -> tuple[Checkpoint, torch.Tensor]:
    """Give a plain encoder rules and a projection."""
    markers = MARKERS if settings.markers is not False else (None, None)
    augment = settings.augment is not False
    form = replace(
        source,
        folder=folder,
        transformer=folder,
        format="stanford" if markers[0] and augment else "pylate",
        dense=() if markers[0] and augment else (folder / "1_Dense",),
        rules=TextRules(
            query_maxlen=settings.query_maxlen or QUERY_MAXLEN,
            doc_maxlen=settings.doc_maxlen or min(DOC_MAXLEN, source.max_positions or DOC_MAXLEN),
            query_marker=markers[0],
            passage_marker=markers[1],
            expand_queries=augment,
        ),
    )
    for pattern in SMALL_FILES:
        for file in source.transformer.glob(pattern):
            if file.name not in _OF_SENTENCES:
                shutil.copyfile(file, folder / file.name)
    if markers[0]:
        _require_markers(form)
    encoder = Encoder.load(model, device="cpu", precision="float32", language=settings.language)
    dim = settings.dim or min(DIM, encoder.dim)
    words = _random_words(TextTokenizer(form))
    matrix_HD = fit_pca(encoder.encode_passages(words).vectors_TD, dim)
    if form.format == "stanford":
        _write_stanford(form, dim)
    else:
        _write_pylate(form, encoder.dim, dim)
    return form, torch.from_numpy(matrix_HD.T.copy())


def _random_words(tokenizer: TextTokenizer) -> list[str]:
    """Texts of random words, long and short ones, since a token is coloured by those beside it."""
    words = tokenizer.words()
    if not words:
        raise ModelError("the vocabulary of this model has no words, of which to fit a projection")
    chance = np.random.default_rng(0)
    return [
        " ".join(words[at] for at in row)
        for count, length in _TEXTS_OF_WORDS
        for row in chance.integers(len(words), size=(count, length))
    ]


def _inside(form: Checkpoint, folder: Path) -> Path:
    """Where the transformer of a form lies under another folder."""
    return folder / form.transformer.relative_to(form.folder)


def _require_markers(form: Checkpoint) -> None:
    tokenizer = TextTokenizer(form)
    ids = (tokenizer.query_marker_id, tokenizer.passage_marker_id)
    if tokenizer.names([one for one in ids if one is not None]) != list(MARKERS):
        raise ModelError(
            f"the vocabulary of this model has no {MARKERS[0]} and {MARKERS[1]}, which ColBERT "
            "takes as markers; give --no-markers"
        )


def _write_stanford(form: Checkpoint, dim: int) -> None:
    rules = form.rules
    _edit(form.folder / "config.json", {"architectures": ["HF_ColBERT"]})
    metadata = {
        "dim": dim,
        "query_maxlen": rules.query_maxlen,
        "doc_maxlen": rules.doc_maxlen,
        "query_token_id": rules.query_marker,
        "doc_token_id": rules.passage_marker,
        "query_token": "[Q]",
        "doc_token": "[D]",
        "mask_punctuation": True,
        "attend_to_mask_tokens": False,
        "similarity": "cosine",
        "interaction": "colbert",
    }
    _write(form.folder / "artifact.metadata", metadata)


def _write_pylate(form: Checkpoint, width: int, dim: int) -> None:
    rules, folder = form.rules, form.folder
    modules = [
        ("", "sentence_transformers.models.Transformer"),
        ("1_Dense", "pylate.models.Dense.Dense"),
    ]
    _write(
        folder / "modules.json",
        [
            {"idx": index, "name": str(index), "path": path, "type": kind}
            for index, (path, kind) in enumerate(modules)
        ],
    )
    settings = {
        "model_type": "ColBERT",
        "similarity_fn_name": "MaxSim",
        "query_prefix": rules.query_marker or "",
        "document_prefix": rules.passage_marker or "",
        "query_length": rules.query_maxlen,
        "document_length": rules.doc_maxlen,
        "do_query_expansion": rules.expand_queries,
        "attend_to_expansion_tokens": False,
        "skiplist_words": list(string.punctuation),
    }
    _write(folder / "config_sentence_transformers.json", settings)
    (folder / "1_Dense").mkdir()
    dense = {
        "in_features": width,
        "out_features": dim,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
        "use_residual": False,
    }
    _write(folder / "1_Dense" / "config.json", dense)


def _check_lengths(started: Checkpoint, settings: StudentSettings) -> None:
    """Refuse lengths that the backbone cannot place."""
    TextTokenizer(started, query_maxlen=settings.query_maxlen, doc_maxlen=settings.doc_maxlen)


def _edit(path: Path, changes: dict[str, Any]) -> None:
    if changes:
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        _write(path, {**before, **changes})


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
