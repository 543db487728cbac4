"""What a checkpoint folder holds: its format, its rules for text, and which files matter.

Three formats are told apart from their small JSON files alone:
    stanford   `HF_ColBERT` of colbert-ai: backbone and `linear.weight` in one weight file, rules in
               `artifact.metadata`
    pylate     `modules.json`: a transformer and Dense layers, rules in
               `config_sentence_transformers.json`
    plain      any other encoder: its token vectors as they are

Neither torch nor transformers is imported. `tokens.py` turns the rules into ids, `network.py` loads
the weights. A backbone with an adapter for each language (`languages.py`) comes in each format: the
rules are the same.
"""

from __future__ import annotations

import hashlib
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from colbert_core.errors import ModelError
from colbert_core.text.additions import ABOUT, TENSORS, Additions
from colbert_core.text.languages import Languages
from colbert_core.text.settings import Settings, parse_json

Format = Literal["stanford", "pylate", "plain"]

# 300 tokens are what ColBERTv2 reads on BEIR. A query without expansion costs only what it is
# long, so its limit is there for accidents (at 64, most queries of CISI would be cut).
PLAIN_DOC_MAXLEN = 300
PLAIN_QUERY_MAXLEN = 256

# These backbones number positions from the padding id on, so that many fewer are usable.
_OFFSET_POSITIONS = {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "xmod", "mpnet"}

QUERY_WEIGHTS = "query_weights.npy"  # see query_weights.py
SMALL_FILES = ("*.json", "*.txt", "*.model", "artifact.metadata", QUERY_WEIGHTS)
"""All that a checkpoint may hold besides weights, in each of its folders."""

_TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "added_tokens.json",
    "special_tokens_map.json",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRules:
    """How text becomes tokens, in words; `tokens.py` resolves them to ids.

    Attributes:
        query_maxlen, doc_maxlen: lengths in tokens, markers included.
        query_marker, passage_marker: token inserted at position 1, or None.
        expand_queries: fill queries up to `query_maxlen` with the mask token.
        attend_to_expansion: whether those are attended to.
        skip_symbols: tokens whose passage vectors are dropped.
        skip_by_encoding: take the first id that the tokenizer gives for a symbol (colbert-ai),
            rather than the id of the token of that name (pylate).
        strip: cut white space around the text.
        lowercase: lowercase the text before the tokenizer sees it.
        query_prompt, passage_prompt: text put before every text.
    """

    query_maxlen: int
    doc_maxlen: int
    query_marker: str | None = None
    passage_marker: str | None = None
    expand_queries: bool = False
    attend_to_expansion: bool = False
    skip_symbols: tuple[str, ...] = ()
    skip_by_encoding: bool = False
    strip: bool = False
    lowercase: bool = False
    query_prompt: str = ""
    passage_prompt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One checkpoint on this machine.

    Attributes:
        folder: the root.
        format: whose rules it follows.
        transformer: the folder of config.json, backbone weights and tokenizer.
        dense: folders of the Dense layers, in order (pylate).
        rules: how text becomes tokens.
        max_positions: most tokens that the backbone can place, or None where it has no limit.
        languages: that the backbone has adapters for.
        additions: to another checkpoint's backbone, or None where it has its own.
    """

    folder: Path
    format: Format
    transformer: Path
    dense: tuple[Path, ...]
    rules: TextRules
    max_positions: int | None
    languages: Languages
    additions: Additions | None = None

    def sha256(self) -> str:
        """Hash of the files that decide about the vectors: weights, also of queries, Dense layers,
        tokenizer."""
        files = [*weight_files(self.transformer)]
        files += [f for f in (self.transformer / ABOUT,) if f.is_file()]
        files += [f for f in (self.folder / QUERY_WEIGHTS,) if f.is_file()]
        files += [f for name in _TOKENIZER_FILES if (f := self.transformer / name).is_file()]
        for layer in self.dense:
            files += [*weight_files(layer), layer / "config.json"]
        digest = hashlib.sha256()
        for file in files:
            digest.update(file.relative_to(self.folder).as_posix().encode() + b"\0")
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()


def read_checkpoint(folder: Path) -> Checkpoint:
    """Find out what `folder` holds.

    Raises:
        ModelError: a file is missing, is not JSON, or holds a setting of the wrong kind.
    """
    modules = _modules(folder)
    transformer, dense = _module_folders(folder, modules)
    config = Settings.read(transformer / "config.json")
    weight_files(transformer)
    settings = Settings.read(folder / "config_sentence_transformers.json", optional=True)
    bert = Settings.read(transformer / "sentence_bert_config.json", optional=True)
    max_positions = _max_positions(config)
    format_: Format
    if "HF_ColBERT" in config.texts("architectures", ()):
        format_, dense = "stanford", ()
        rules = _stanford_rules(Settings.read(folder / "artifact.metadata", optional=True))
    elif _is_pylate(modules, settings):
        format_ = "pylate"
        rules = _pylate_rules(settings, bert)
    else:
        # A Dense layer behind a pooling layer projects one vector per text, not one per token.
        format_, dense = "plain", ()
        rules = _plain_rules(settings, bert, max_positions)
    return Checkpoint(
        folder=folder,
        format=format_,
        transformer=transformer,
        dense=dense,
        rules=rules,
        max_positions=max_positions,
        languages=Languages.read(config),
        additions=Additions.read(transformer),
    )


def weight_files(folder: Path) -> list[Path]:
    """The weight files that are read, sorted: safetensors where there are any.

    Where the backbone is another's (`additions.py`), the file of what is added to it.

    Raises:
        ModelError: there are none.
    """
    for pattern in (TENSORS, "model*.safetensors", "pytorch_model*.bin"):
        files = sorted(folder.glob(pattern))
        if files:
            return files
    raise ModelError(
        f"{folder} holds no weights: expected model.safetensors or pytorch_model.bin"
        " (or their shards) there"
    )


def _stanford_rules(metadata: Settings) -> TextRules:
    """colbert-ai's `ColBERTConfig`, with its defaults for what the file leaves out."""
    masked = metadata.flag("mask_punctuation", True)
    return TextRules(
        query_maxlen=metadata.count("query_maxlen", 32),
        doc_maxlen=metadata.count("doc_maxlen", 220),
        query_marker=metadata.text("query_token_id", "[unused0]"),
        passage_marker=metadata.text("doc_token_id", "[unused1]"),
        expand_queries=True,
        attend_to_expansion=metadata.flag("attend_to_mask_tokens", False),
        skip_symbols=tuple(string.punctuation) if masked else (),
        skip_by_encoding=True,
    )


def _pylate_rules(settings: Settings, bert: Settings) -> TextRules:
    """pylate's `ColBERT`, with its defaults for what the file leaves out or sets to null."""
    expand = settings.flag("do_query_expansion", True)
    # Only a default prompt is put before a text that is encoded without naming one.
    prompt = settings.prompts().get(settings.text("default_prompt_name", ""), "")
    return TextRules(
        query_maxlen=settings.count("query_length", 32),
        doc_maxlen=settings.count("document_length", 180),
        query_marker=settings.text("query_prefix", "[Q] ") or None,
        passage_marker=settings.text("document_prefix", "[D] ") or None,
        expand_queries=expand,
        attend_to_expansion=settings.flag("attend_to_expansion_tokens", False) and expand,
        skip_symbols=settings.texts("skiplist_words", tuple(string.punctuation)),
        strip=True,
        lowercase=bert.flag("do_lower_case", False),
        query_prompt=prompt,
        passage_prompt=prompt,
    )


def _plain_rules(settings: Settings, bert: Settings, max_positions: int | None) -> TextRules:
    """Token vectors as they are; the prompts of a sentence-transformers model are kept."""
    limit = max_positions or PLAIN_DOC_MAXLEN
    prompts = settings.prompts()
    return TextRules(
        query_maxlen=min(limit, PLAIN_QUERY_MAXLEN),
        doc_maxlen=min(limit, PLAIN_DOC_MAXLEN),
        lowercase=bert.flag("do_lower_case", False),
        query_prompt=prompts.get("query", ""),
        passage_prompt=prompts.get("document", "") or prompts.get("passage", ""),
    )


def _is_pylate(modules: list[dict[str, Any]], settings: Settings) -> bool:
    if not modules or any(_kind(module) == "Pooling" for module in modules):
        return False
    return settings.values.get("model_type") == "ColBERT" or any(
        key in settings for key in ("query_prefix", "document_prefix", "document_length")
    )


def _modules(folder: Path) -> list[dict[str, Any]]:
    path = folder / "modules.json"
    if not path.is_file():
        return []
    modules = parse_json(path)
    if not isinstance(modules, list) or not all(
        isinstance(module, dict) and isinstance(module.get("type"), str) for module in modules
    ):
        raise ModelError(f"{path} is not a list of modules with a type each")
    return modules


def _module_folders(folder: Path, modules: list[dict[str, Any]]) -> tuple[Path, tuple[Path, ...]]:
    """The transformer's folder, and those of the Dense layers in order."""
    transformer, dense = folder, []
    for module in modules:
        place = folder / str(module.get("path", ""))
        if _kind(module) == "Transformer":
            transformer = place
        elif _kind(module) == "Dense":
            dense.append(place)
    return transformer, tuple(dense)


def _kind(module: dict[str, Any]) -> str:
    return str(module["type"]).rpartition(".")[2]


def _max_positions(config: Settings) -> int | None:
    if "max_position_embeddings" not in config or config.values["max_position_embeddings"] == -1:
        return None
    positions = config.count("max_position_embeddings", 1)
    if config.text("model_type", "") in _OFFSET_POSITIONS:
        positions -= int(config.values.get("pad_token_id", 0)) + 1
    return positions
