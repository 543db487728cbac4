"""What makes two encoders the same: the weights, and every rule by which text becomes vectors.

An index stores the identity of the model that made it, and refuses another one's queries. Nothing
here needs torch, so that an index can be opened, and its model named, without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from colbert_core.errors import InvalidInput, ModelMismatch
from colbert_core.text.checkpoint import Checkpoint, Format

if TYPE_CHECKING:
    from colbert_core.text.tokens import TextTokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """A checkpoint and its rules, as plain values that JSON can hold.

    Attributes:
        source: the alias, hub name or path that was asked for; not compared.
        format: whose rules the checkpoint follows.
        weights_sha256: hash of the weight, projection and tokenizer files.
        dim: dimensions of the vectors that the encoder gives.
        query_maxlen: tokens of a query, markers included.
        doc_maxlen: tokens of a passage, markers included.
        query_marker_id: token id put at position 1 of a query, or None.
        passage_marker_id: token id put at position 1 of a passage, or None.
        expansion_id: token id that fills a query up to `query_maxlen`; None: no expansion.
        attend_to_expansion: whether the query's words see the expansion tokens.
        skip_ids: token ids of a passage that give no vector, ascending.
        strip: whether white space around a text is cut before tokenising.
        lowercase: whether text is lowercased before the tokenizer sees it.
        query_prompt: text put before every query.
        passage_prompt: text put before every passage.
        projection_sha256: hash of the matrix of `Encoder.project`, or None.
        language: whose adapter reads, where the model has one for each language, or None.
    """

    source: str
    format: Format
    weights_sha256: str
    dim: int
    query_maxlen: int
    doc_maxlen: int
    query_marker_id: int | None = None
    passage_marker_id: int | None = None
    expansion_id: int | None = None
    attend_to_expansion: bool = False
    skip_ids: tuple[int, ...] = ()
    strip: bool = False
    lowercase: bool = False
    query_prompt: str = ""
    passage_prompt: str = ""
    projection_sha256: str | None = None
    language: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest; `from_dict` reads them back."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["skip_ids"] = list(self.skip_ids)
        if self.language is None:  # older programs read the identities of all other models
            del values["language"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelIdentity:
        """The identity that `to_dict` wrote.

        Raises:
            InvalidInput: a key is unknown or missing, or a value has the wrong type.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise InvalidInput(
                f"model identity: unknown key {', '.join(unknown)}; known are {', '.join(fields)}."
                " It was probably written by a newer Tartan: read it with that version."
            )
        missing = sorted(
            name
            for name, field in fields.items()
            if name not in values and field.default is dataclasses.MISSING
        )
        if missing:
            raise InvalidInput(f"model identity: {', '.join(missing)} missing")
        for name, value in values.items():
            _check_type(name, value)
        known = dict(values)
        known["skip_ids"] = tuple(known.get("skip_ids", ()))
        return cls(**known)

    def require_same(self, other: ModelIdentity) -> None:
        """Refuse `other` where it would not give the vectors that this model gives.

        Raises:
            ModelMismatch: names both models and each value that differs.
        """
        mine, theirs = self.to_dict(), other.to_dict()
        names = dict.fromkeys([*mine, *theirs])
        different = [one for one in names if one != "source" and mine.get(one) != theirs.get(one)]
        if different:
            details = "; ".join(
                f"{name}: {_short(mine.get(name))} against {_short(theirs.get(name))}"
                for name in different
            )
            raise ModelMismatch(
                f"the index was built with model {self.source!r}, but {other.source!r} was given,"
                f" and they differ ({details}). Give the model that the index was built with,"
                " or build the index again with the new one."
            )


def identity_of(
    source: str,
    checkpoint: Checkpoint,
    tokenizer: TextTokenizer,
    dim: int,
    language: str | None,
) -> ModelIdentity:
    """Of a checkpoint that is read with this tokenizer, in this language."""
    rules = tokenizer.rules
    return ModelIdentity(
        source=source,
        format=checkpoint.format,
        weights_sha256=checkpoint.sha256(),
        dim=dim,
        query_maxlen=rules.query_maxlen,
        doc_maxlen=rules.doc_maxlen,
        query_marker_id=tokenizer.query_marker_id,
        passage_marker_id=tokenizer.passage_marker_id,
        expansion_id=tokenizer.expansion_id,
        attend_to_expansion=rules.attend_to_expansion,
        skip_ids=tuple(sorted(tokenizer.skip_ids)),
        strip=rules.strip,
        lowercase=rules.lowercase,
        query_prompt=rules.query_prompt,
        passage_prompt=rules.passage_prompt,
        language=language,
    )


_OPTIONAL_INT = (int, type(None))
_TYPES: dict[str, tuple[type, ...]] = {
    "source": (str,),
    "format": (str,),
    "weights_sha256": (str,),
    "dim": (int,),
    "query_maxlen": (int,),
    "doc_maxlen": (int,),
    "query_marker_id": _OPTIONAL_INT,
    "passage_marker_id": _OPTIONAL_INT,
    "expansion_id": _OPTIONAL_INT,
    "attend_to_expansion": (bool,),
    "skip_ids": (list, tuple),
    "strip": (bool,),
    "lowercase": (bool,),
    "query_prompt": (str,),
    "passage_prompt": (str,),
    "projection_sha256": (str, type(None)),
    "language": (str, type(None)),
}


def _check_type(name: str, value: Any) -> None:
    expected = _TYPES[name]
    wrong = not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected)
    if name == "skip_ids" and not wrong:
        wrong = any(not isinstance(item, int) or isinstance(item, bool) for item in value)
    if name == "format" and not wrong:
        wrong = value not in get_args(Format)
    if wrong:
        raise InvalidInput(f"model identity: {name} has the value {value!r}, which it cannot have")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:12] + "…"
