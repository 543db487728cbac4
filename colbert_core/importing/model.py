"""The encoder of an imported index: what its metadata name, where that can be loaded."""

from __future__ import annotations

from typing import Any

from colbert_core.errors import InvalidInput, ModelError
from colbert_core.importing.report import ImportReport
from colbert_core.index.importers import Source


def model_of(
    source: Source, model: str | None, language: str | None, report: ImportReport
) -> dict[str, Any] | None:
    """The identity of the encoder, where it can be loaded and encodes as the index was."""
    named = model or source.settings.get("checkpoint")
    if not isinstance(named, str) or not named:
        report.notes.append("it names no model: search it with vectors, or give --model")
        return None
    from colbert_core.text import Encoder

    try:
        encoder = Encoder.load(
            named,
            query_maxlen=_length(source.settings.get("query_maxlen")),
            doc_maxlen=_length(source.settings.get("doc_maxlen")),
            language=language,
        )
        problem = _differences(source, encoder.identity)
    except (ModelError, InvalidInput) as error:
        if model or language:
            raise
        problem = str(error)
    if problem and model:
        raise InvalidInput(f"model {model!r} did not make this index: {problem}")
    if problem:
        report.notes.append(
            f"text queries are left out, since its model {named!r} cannot be used here: {problem} "
            "(--model names another place)"
        )
        return None
    if language is None and encoder.identity.language is not None:
        report.notes.append(
            f"its model has an adapter for each language, and {encoder.identity.language}, its "
            "default, is taken; if the passages were encoded in another, give --language"
        )
    report.model = named
    return dict(encoder.identity.to_dict())


def _length(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def _differences(source: Source, identity: Any) -> str:
    """How a checkpoint encodes otherwise than the index was, or nothing."""
    settings = source.settings
    if identity.dim != source.dim:
        return f"its vectors have {identity.dim} dimensions and the index has {source.dim}"
    for name, actual in (
        ("attend_to_mask_tokens", identity.attend_to_expansion),
        ("mask_punctuation", len(identity.skip_ids) > 1),  # one: padding, which is always left out
    ):
        if isinstance(settings.get(name), bool) and settings[name] != actual:
            return (
                f"the index was made with {name}={settings[name]} and the checkpoint has {actual}"
            )
    return ""
