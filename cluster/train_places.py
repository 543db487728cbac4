"""Where a training run writes: places that are tried before anything is computed."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from colbert_core.errors import InvalidInput, TartanError
from colbert_core.storage import location, store_of

_PROBE = ".writable"


def make_writable(out: Path) -> None:
    """Make the folder of a run.

    Raises:
        InvalidInput: nothing can be written there.
    """
    probe = out / _PROBE
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise InvalidInput(
            f"{out}: checkpoints cannot be written there ({error.strerror}); choose another --out"
        ) from error


def require_place(checkpoints: str) -> None:
    """The same of checkpoints elsewhere: a folder, or a URI in a bucket.

    Raises:
        InvalidInput: nothing can be written there.
    """
    try:
        place = location(checkpoints)
        if isinstance(place, Path):
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                return
        probe, store = place / _PROBE, store_of(place)
        with tempfile.NamedTemporaryFile() as empty:
            store.put(probe.key, Path(empty.name), hashlib.sha256().hexdigest())
        store.delete(probe.key)
    except (OSError, TartanError) as error:
        raise InvalidInput(
            f"--checkpoints {checkpoints}: they cannot be written there ({error}); give a folder, "
            "or the URI of a bucket that you may write to"
        ) from error


def storage_path(checkpoints: str) -> str:
    """A URI as it is, and a path so that it holds from any working directory."""
    return checkpoints if "://" in checkpoints else str(Path(checkpoints).absolute())
