"""A BERT small enough to commit, with random weights, and texts that are awkward to tokenise.

The makers of the encoder-parity fixtures (`fixtures_stanford.py`, `fixtures_pylate.py`) share it.
It runs inside the peers' environments, so it may import only what all of them have.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertModel, BertTokenizerFast

VOCABULARY_SIZE = 480
HIDDEN = 32
POSITIONS = 96

# With BERT's own .02 attention would be uniform and a wrong attention mask hardly show; with .3 it
# saturates and all tokens of a text look the same. `check_sensitivity` holds the choice.
INITIALIZER_RANGE = 0.12

TEXTS = [
    "",
    "   ",
    "?",
    "...!!! --- ;;; (( ))",
    "what is late interaction",
    "Late Interaction keeps ONE vector for each token, of queries and of passages alike.",
    "don't stop: it's 3.14159 times 1,000,000 -- or 6.02e23 (roughly).",
    "Café, naïve façade; Ångström; İstanbul; straße; ﬁne ligature",
    "日本語の文章 と 中文字符 и немного по-русски",
    "emoji 🙂 and zero\u200bwidth and soft\u00adhyphen and nbsp\u00a0here",
    "tab\tnewline\nreturn\r\ncontrol\x07character",
    "the [MASK] token and the [SEP] token, written out by someone",
    "unbelievablyinterminablecompoundwordthatfallsapartintoverymanypieces",
    "a passage that runs on " * 12,
    "supercalifragilistic " + "the end, and then, again, the end; " * 9,
]

# What the vocabulary is trained on, so that ordinary words are whole and rare ones fall apart.
PROSE = """
Late interaction keeps one vector for every token of a query and of a passage. The score of a
passage is the sum, over the tokens of the query, of the largest similarity with any token of the
passage. An index stores the nearest centroid of each vector and a compressed residual. A search
probes the centroids that are nearest to each token, gathers the passages that they lead to, and
scores the best of them exactly. What is the token that a query matches best? It is the one whose
vector points the same way. The end of a passage is not the end of the search, and a passage that
runs on is cut at the longest length that the model was trained with.
"""


def write_backbone(folder: Path, seed: int, *, vocab_txt: bool = False) -> None:
    """Write a random two-layer BERT and its WordPiece tokenizer to `folder`.

    `vocab_txt` also writes the one-token-a-line file that older checkpoints carry.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = _vocabulary()
    vocabulary_path = folder / "vocab.txt"
    vocabulary_path.write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    tokenizer = _tokenizer(vocabulary_path)
    tokenizer.save_pretrained(folder)
    if not vocab_txt:
        vocabulary_path.unlink(missing_ok=True)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=POSITIONS,
        initializer_range=INITIALIZER_RANGE,
        pad_token_id=vocabulary.index("[PAD]"),
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)


def _tokenizer(vocabulary: Path) -> Any:
    """A BERT tokenizer from `vocab.txt`; the argument's name changed with transformers 5."""
    major = int(transformers.__version__.split(".")[0])
    argument = "vocab" if major >= 5 else "vocab_file"
    return BertTokenizerFast(**{argument: str(vocabulary)}, do_lower_case=True)


def _vocabulary() -> list[str]:
    """BERT's layout in small: [PAD], unused tokens, the other specials, then learned pieces."""
    trainer = BertWordPieceTokenizer(lowercase=True)
    alphabet = [chr(code) for code in range(33, 127)]
    special = ["[PAD]", *(f"[unused{i}]" for i in range(8)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer.train_from_iterator(
        [PROSE, *TEXTS[4:9]],
        vocab_size=VOCABULARY_SIZE,
        min_frequency=1,
        initial_alphabet=alphabet,
        special_tokens=special,
        show_progress=False,
    )
    by_id = sorted(trainer.get_vocab().items(), key=lambda item: item[1])
    return [token for token, _ in by_id]


def save_expected(
    case: Path,
    *,
    queries: list[np.ndarray],
    query_ids: list[np.ndarray],
    documents: list[np.ndarray],
    document_ids: list[np.ndarray],
    about: dict[str, Any],
) -> None:
    """Write `expected.npz`, `texts.json` and `about.json` beside `checkpoint/`.

    Vectors are float32 [tokens, dim], one array per text, stored end to end with their lengths;
    ids are the vocabulary ids of the kept tokens, aligned with the rows.
    """
    for vectors, ids in zip(queries + documents, query_ids + document_ids, strict=True):
        if len(vectors) != len(ids):
            raise ValueError(f"{len(vectors)} vectors but {len(ids)} token ids")
    np.savez_compressed(
        case / "expected.npz",
        query_vectors=np.concatenate(queries).astype(np.float32),
        query_lengths=np.array([len(q) for q in queries], np.int32),
        query_ids=np.concatenate(query_ids).astype(np.int32),
        document_vectors=np.concatenate(documents).astype(np.float32),
        document_lengths=np.array([len(d) for d in documents], np.int32),
        document_ids=np.concatenate(document_ids).astype(np.int32),
    )
    (case / "texts.json").write_text(json.dumps(TEXTS, indent=1) + "\n", encoding="utf-8")
    (case / "about.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def library_versions(*names: str) -> dict[str, str]:
    """The installed versions of `names`, for `about.json`."""
    from importlib.metadata import version

    return {name: version(name) for name in names}


def check_sensitivity(vectors: np.ndarray, with_wrong_mask: np.ndarray) -> None:
    """Refuse a random model that would let a wrong encoder pass.

    Both arguments are [tokens, dim], L2-normalised, of one query whose padding must not be
    attended to: as the library encodes it, and with an attention mask of ones.
    """
    crowding = float((vectors @ vectors.T).mean())
    agreement = float((vectors * with_wrong_mask).sum(1).min())
    if crowding > 0.9 or agreement > 0.99:
        raise ValueError(
            f"tokens have mean cosine {crowding:.3f} (limit .9) and a wrong attention mask still "
            f"gives cosine {agreement:.4f} (limit .99): choose another seed or INITIALIZER_RANGE"
        )
