"""Text to tokens: markers, expansion, skiplist and lengths, as the checkpoint's format defines.

For each text: the ids that go through the backbone, which of them are attended to, which of them
give a vector, where in the text each stands, and whether the text was cut.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from colbert_core.errors import InvalidInput, ModelError
from colbert_core.text.checkpoint import Checkpoint, TextRules
from colbert_core.text.quiet import quiet_transformers
from colbert_core.text.spans import NO_SPAN, prepare, source_spans, whole_words

# [CLS], marker, one piece of text, [SEP].
SHORTEST = 4

OVERLAP = 0.25
"""The share of a window's tokens that the next one has too: what stands at the border of one stands
inside the other, with what is around it."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text, tokenised.

    Attributes:
        ids: what the backbone reads; its length is the text's cost.
        attended: how many of the leading `ids` are attended to; the rest is expansion.
        kept: positions in `ids` that give a vector, ascending.
        truncated: whether text was cut off.
        spans: for each id the characters of the text that it stands for, `NO_SPAN` for none;
            empty unless asked for.
    """

    ids: list[int]
    attended: int
    kept: list[int]
    truncated: bool
    spans: list[tuple[int, int]]


class TextTokenizer:
    """The tokenizer of a checkpoint under its rules; may be used by several threads."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        query_maxlen: int | None = None,
        doc_maxlen: int | None = None,
    ) -> None:
        """Load the tokenizer and resolve markers, expansion and skiplist to ids.

        Raises:
            ModelError: the tokenizer cannot be loaded, or lacks a token that the rules name.
            InvalidInput: a length is below 4 or above what the backbone can place.
        """
        self._tokenizer = _load(checkpoint)
        self.rules: TextRules = _with_lengths(checkpoint, query_maxlen, doc_maxlen)
        self.query_marker_id = self._marker_id(checkpoint, self.rules.query_marker)
        self.passage_marker_id = self._marker_id(checkpoint, self.rules.passage_marker)
        self.expansion_id = self._expansion_id(checkpoint) if self.rules.expand_queries else None
        self.skip_ids = self._skip_ids(checkpoint)
        pad_id = self._tokenizer.pad_token_id
        self.pad_id: int = pad_id if pad_id is not None else self.expansion_id or 0
        # colbert-ai tells padding by its id alone, also where a text spells it out.
        self._pads_become_expansion = checkpoint.format == "stanford"
        self._lock = threading.Lock()

    def queries(self, texts: Sequence[str], *, spans: bool = False) -> list[Tokens]:
        """Tokenise queries; with expansion every one has `query_maxlen` ids, all kept."""
        rules = self.rules
        found = self._tokenize(
            texts, rules.query_prompt, rules.query_maxlen, self.query_marker_id, spans
        )
        return [self._expand(tokens) for tokens in found]

    def passages(self, texts: Sequence[str], *, spans: bool = False) -> list[Tokens]:
        """Tokenise passages; tokens of the skiplist are read but not kept."""
        rules = self.rules
        found = self._tokenize(
            texts, rules.passage_prompt, rules.doc_maxlen, self.passage_marker_id, spans
        )
        skip = self.skip_ids
        if not skip:
            return found
        return [
            replace(tokens, kept=[at for at, id_ in enumerate(tokens.ids) if id_ not in skip])
            for tokens in found
        ]

    def windows(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """The characters of each text in windows that the passage length holds, overlapping.

        A text that is not too long is one window, all of it. Others begin at a token and end at
        one, and each shares its last tokens, a share of `OVERLAP`, with the next.

        Raises:
            InvalidInput: the tokenizer cannot tell which characters a token stands for.
        """
        if not texts:
            return []
        if not self._tokenizer.is_fast:
            raise InvalidInput(
                "the model's tokenizer does not tell where tokens stand in a text, so long texts "
                "cannot be split: use --long-documents truncate or error, or save the model with "
                "a fast tokenizer (tokenizer.json)"
            )
        # Each window is encoded as a text of its own, with the marker and the prompt before it.
        prompt = self._tokenizer(self.rules.passage_prompt, add_special_tokens=False, verbose=False)
        room = self.rules.doc_maxlen - (self.passage_marker_id is not None)
        room -= len(prompt["input_ids"])
        overlap = int((room - self._tokenizer.num_special_tokens_to_add()) * OVERLAP)
        with self._lock:
            batch = self._tokenizer(
                [prepare(text, "", self.rules) for text in texts],
                truncation=True,
                max_length=room,
                stride=overlap,
                return_overflowing_tokens=True,
                padding=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
        found: list[list[tuple[int, int]]] = [[] for _ in texts]
        for row, owner in enumerate(batch["overflow_to_sample_mapping"]):
            text = texts[owner]
            places = [one for one in self._spans(batch, row, text, "") if one != NO_SPAN]
            if places:
                found[owner].append(whole_words(places, text, overlap // 2))
        return [
            windows if len(windows) > 1 else [(0, len(text))]
            for windows, text in zip(found, texts, strict=True)
        ]

    def names(self, ids: Sequence[int]) -> list[str]:
        """The tokenizer's own names of ids, such as `##ing`."""
        names: list[str] = self._tokenizer.convert_ids_to_tokens(list(ids))
        return names

    @property
    def vocabulary(self) -> int:
        """How many ids there are."""
        return len(self._tokenizer)

    @property
    def added_ids(self) -> list[int]:
        """Ids that are no piece of text: [CLS], [UNK] and their like, markers and expansion;
        ascending."""
        own = (self.query_marker_id, self.passage_marker_id, self.expansion_id)
        ids = {*self._tokenizer.all_special_ids, *own}
        return sorted(id_ for id_ in ids if id_ is not None)

    def words(self) -> list[str]:
        """The words, letters alone, that are one token each, in the order of the vocabulary."""
        ids = range(self.vocabulary)
        texts = [self._tokenizer.decode([id_]).strip() for id_ in ids]
        found = [(text, id_) for text, id_ in zip(texts, ids, strict=True) if text.isalpha()]
        if not found:
            return []
        with self._lock:
            batch = self._tokenizer([text for text, _ in found], add_special_tokens=False)
        # A piece of a word, read alone, becomes other tokens than itself.
        return [
            text for (text, id_), ids in zip(found, batch["input_ids"], strict=True) if ids == [id_]
        ]

    def _expand(self, tokens: Tokens) -> Tokens:
        expansion_id = self.expansion_id
        if expansion_id is None:
            return tokens
        ids = tokens.ids
        if self._pads_become_expansion:
            ids = [expansion_id if id_ == self.pad_id else id_ for id_ in ids]
        length = self.rules.query_maxlen
        added = length - len(ids)
        return replace(
            tokens,
            ids=ids + [expansion_id] * added,
            attended=length if self.rules.attend_to_expansion else tokens.attended,
            kept=list(range(length)),
            spans=tokens.spans + [NO_SPAN] * added if tokens.spans else [],
        )

    def _tokenize(
        self, texts: Sequence[str], prompt: str, maxlen: int, marker_id: int | None, spans: bool
    ) -> list[Tokens]:
        if not texts:
            return []
        room = maxlen - (marker_id is not None)
        prepared = [prepare(text, prompt, self.rules) for text in texts]
        # Truncation is a setting of the fast tokenizer, so two threads must not be in here.
        with self._lock:
            batch = self._tokenizer(
                prepared,
                truncation=True,
                max_length=room,
                padding=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
            cut = self._was_cut(batch, prepared, room)
        found = []
        for row, ids in enumerate(batch["input_ids"]):
            places = self._spans(batch, row, texts[row], prompt) if spans else []
            if marker_id is not None:
                ids = [*ids[:1], marker_id, *ids[1:]]
                places = [*places[:1], NO_SPAN, *places[1:]] if spans else []
            kept = list(range(len(ids)))
            found.append(Tokens(list(ids), len(ids), kept, cut[row], places))
        return found

    def _was_cut(self, batch: Any, prepared: list[str], room: int) -> list[bool]:
        if self._tokenizer.is_fast:
            return [bool(encoding.overflowing) for encoding in batch.encodings]
        # A tokenizer in Python does not tell; only texts that fill the room can have been cut.
        return [
            len(ids) >= room and len(self._tokenizer(text, verbose=False)["input_ids"]) > room
            for ids, text in zip(batch["input_ids"], prepared, strict=True)
        ]

    def _spans(self, batch: Any, row: int, text: str, prompt: str) -> list[tuple[int, int]]:
        """Offsets into the prepared text, as spans of the text that the caller knows."""
        if not self._tokenizer.is_fast:
            return [NO_SPAN] * len(batch["input_ids"][row])
        return source_spans(batch.encodings[row].offsets, text, prompt, self.rules)

    def _marker_id(self, checkpoint: Checkpoint, marker: str | None) -> int | None:
        if marker is None:
            return None
        id_ = self._tokenizer.convert_tokens_to_ids(marker)
        unknown = id_ is None or (
            id_ == self._tokenizer.unk_token_id and marker != self._tokenizer.unk_token
        )
        # colbert-ai goes on with the unknown token, and so were such checkpoints trained;
        # pylate would add a token with random weights.
        if unknown and (id_ is None or checkpoint.format == "pylate"):
            raise ModelError(
                f"the tokenizer in {checkpoint.transformer} has no token {marker!r}, which the"
                " checkpoint names as its marker: save the tokenizer with the checkpoint, or"
                " correct the marker in its configuration"
            )
        return int(id_)

    def _expansion_id(self, checkpoint: Checkpoint) -> int:
        tokenizer = self._tokenizer
        choices = [tokenizer.mask_token_id]
        if checkpoint.format == "pylate":
            choices += [tokenizer.eos_token_id, tokenizer.pad_token_id]
        for id_ in choices:
            if id_ is not None:
                return int(id_)
        raise ModelError(
            f"the tokenizer in {checkpoint.transformer} has no mask token, with which the"
            " checkpoint wants queries filled up"
        )

    def _skip_ids(self, checkpoint: Checkpoint) -> frozenset[int]:
        tokenizer, rules = self._tokenizer, self.rules
        if rules.skip_by_encoding:
            encoded = [
                tokenizer.encode(symbol, add_special_tokens=False) for symbol in rules.skip_symbols
            ]
            ids = {pieces[0] for pieces in encoded if pieces}
        else:
            ids = {tokenizer.convert_tokens_to_ids(symbol) for symbol in rules.skip_symbols}
        if checkpoint.format == "stanford":
            ids.add(tokenizer.pad_token_id)
        return frozenset(int(id_) for id_ in ids if id_ is not None)


def _load(checkpoint: Checkpoint) -> Any:
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(
                str(checkpoint.transformer), local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # transformers raises what its tokenizers raise: anything
        raise ModelError(
            f"the tokenizer in {checkpoint.transformer} cannot be loaded"
            f" ({type(error).__name__}: {error}): the folder needs tokenizer.json, or the"
            " vocabulary files of its class"
        ) from error


def _with_lengths(
    checkpoint: Checkpoint, query_maxlen: int | None, doc_maxlen: int | None
) -> TextRules:
    rules = checkpoint.rules
    return replace(
        rules,
        query_maxlen=_length("query_maxlen", query_maxlen, rules.query_maxlen, checkpoint),
        doc_maxlen=_length("doc_maxlen", doc_maxlen, rules.doc_maxlen, checkpoint),
    )


def _length(name: str, asked: int | None, own: int, checkpoint: Checkpoint) -> int:
    """The caller's length, or the checkpoint's own, cut to what its backbone can place."""
    limit = checkpoint.max_positions
    value = asked if asked is not None else min(own, limit or own)
    if value < SHORTEST or (limit is not None and value > limit):
        raise InvalidInput(
            f"{name} {value} is outside {SHORTEST} … {limit or 'any length'}, what the model"
            f" in {checkpoint.folder} can read: choose a length in that range"
        )
    return value
