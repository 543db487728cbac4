"""The language that text is read in, where a backbone has an adapter for each (X-MOD, ColBERT-XM).

All other models read every language alike, and have no `names` here.
"""

from __future__ import annotations

from dataclasses import dataclass

from colbert_core.errors import InvalidInput
from colbert_core.text.settings import Settings


@dataclass(frozen=True, slots=True)
class Languages:
    """What a checkpoint's configuration says of languages.

    Attributes:
        model: whose they are, for messages.
        names: one of each adapter, in their order, such as "de_DE"; none where there are none.
        default: the one that is read where none is asked for, or None.
    """

    model: str
    names: tuple[str, ...] = ()
    default: str | None = None

    @classmethod
    def read(cls, config: Settings) -> Languages:
        """From the config.json of a transformer.

        Raises:
            ModelError: a setting is of the wrong kind.
        """
        model = str(config.path.parent)
        if config.values.get("model_type") != "xmod":
            return cls(model)
        default = config.text("default_language", "") or None
        return cls(model, config.texts("languages", ("en_XX",)), default)

    def choose(self, asked: str | None) -> str | None:
        """The adapter to read with: the one that is asked for, by its name or by the part before
        "_" where only one has it, else the default; None where there are no adapters.

        Raises:
            InvalidInput: there is no such adapter, or nothing says which.
        """
        if not self.names:
            if asked is not None:
                raise InvalidInput(
                    f"language {asked[:40]!r}: the model in {self.model} has no adapters for "
                    "languages and reads all alike; leave --language out"
                )
            return None
        wanted = asked or self.default
        if wanted is None:
            raise InvalidInput(
                f"the model in {self.model} reads each language with an adapter of its own; say "
                f"which with --language: {self._shown(self.names)}"
            )
        if wanted in self.names:
            return wanted
        fitting = [name for name in self.names if name.partition("_")[0] == wanted]
        if len(fitting) == 1:
            return fitting[0]
        raise InvalidInput(
            f"language {wanted[:40]!r}: the model in {self.model} has {len(fitting) or 'no'} "
            f"adapters of that name; give one of {self._shown(fitting or self.names)}"
        )

    def number(self, language: str | None) -> int | None:
        """The place of a chosen adapter, as the backbone counts them."""
        return None if language is None else self.names.index(language)

    @staticmethod
    def _shown(names: list[str] | tuple[str, ...]) -> str:
        return ", ".join(names)
