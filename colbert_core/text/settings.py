"""The small JSON files of a checkpoint, read with their types checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colbert_core.errors import ModelError


def parse_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from error


@dataclass(frozen=True, slots=True)
class Settings:
    """One JSON object. A key that is missing or null stands for its library's default."""

    path: Path
    values: dict[str, Any]

    @classmethod
    def read(cls, path: Path, *, optional: bool = False) -> Settings:
        """Read a file of a checkpoint; where it is optional and missing, nothing is set.

        Raises:
            ModelError: the file is missing, broken, or holds something other than an object.
        """
        if not path.is_file():
            if optional:
                return cls(path, {})
            raise ModelError(
                f"{path.parent} is no checkpoint: it has no {path.name}. Give the folder that"
                " holds config.json, the tokenizer and the weights"
            )
        values = parse_json(path)
        if not isinstance(values, dict):
            raise ModelError(
                f"{path} should hold a JSON object, and holds a {type(values).__name__}"
            )
        return cls(path, {key: value for key, value in values.items() if value is not None})

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def count(self, key: str, default: int) -> int:
        """A whole number of at least 1."""
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._wrong(key, value, "a whole number of at least 1")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def text(self, key: str, default: str) -> str:
        """A string."""
        value = self.values.get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, value, "a string")
        return value

    def texts(self, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        """A list of strings."""
        value = self.values.get(key, default)
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise self._wrong(key, value, "a list of strings")
        return tuple(value)

    def prompts(self) -> dict[str, str]:
        """`prompts` of sentence-transformers: name → text put before what is encoded."""
        value = self.values.get("prompts", {})
        if not isinstance(value, dict):
            raise self._wrong("prompts", value, "an object of strings")
        return {name: text for name, text in value.items() if isinstance(text, str)}

    def _wrong(self, key: str, value: Any, wanted: str) -> ModelError:
        return ModelError(f"{self.path}: {key} is {value!r}, and should be {wanted}")
