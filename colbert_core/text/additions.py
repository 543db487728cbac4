"""A checkpoint in little: the backbone of another, and low-rank additions to its weights.

    additions.json          {"base": model, "base_sha256": hash of its checkpoint}
    additions.safetensors   for a weight NAME [out, in]: NAME.up [out, rank], NAME.down [rank, in]

Such a folder holds everything else that a checkpoint holds, tokenizer and rules included, so that
only weights are looked for elsewhere. A backbone of 90 MB then ships as one or two: the base comes
from a Python package, or from where all models come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from colbert_core.errors import ModelError
from colbert_core.text.settings import Settings

if TYPE_CHECKING:
    import torch

ABOUT, TENSORS = "additions.json", "additions.safetensors"
_UP, _DOWN = ".up", ".down"


@dataclass(frozen=True, slots=True)
class Additions:
    """What a folder says of itself.

    Attributes:
        folder: the one that holds them.
        base: path, hub name or alias of the checkpoint whose backbone is added to.
        base_sha256: `Checkpoint.sha256` of it.
    """

    folder: Path
    base: str
    base_sha256: str

    @classmethod
    def read(cls, folder: Path) -> Additions | None:
        """None where the folder holds no additions.

        Raises:
            ModelError: it does not say to what.
        """
        if not (folder / ABOUT).is_file():
            return None
        about = Settings.read(folder / ABOUT)
        base, base_sha256 = about.text("base", ""), about.text("base_sha256", "")
        if not base or not base_sha256:
            raise ModelError(f"{about.path} does not name its base and the base's hash")
        return cls(folder, base, base_sha256)

    def require(self, found: str) -> None:
        """Refuse another base than the one that was trained on.

        Raises:
            ModelError: names both.
        """
        if found != self.base_sha256:
            raise ModelError(
                f"{self.folder} adds to the weights of {self.base!r} with hash "
                f"{self.base_sha256[:12]}, and what is installed under this name has "
                f"{found[:12]}: install the version that it was trained on"
            )

    def add_to(self, backbone: torch.nn.Module) -> None:
        """Add to the weights of the base, in place and in their own precision.

        Raises:
            ModelError: the file cannot be read, or does not fit the backbone.
        """
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.folder / TENSORS
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path} cannot be read as weights: {error}") from error
        weights = dict(backbone.named_parameters())
        with torch.no_grad():
            for key, up_OR in tensors.items():
                if not key.endswith(_UP):
                    continue
                name = key.removesuffix(_UP)
                down_RI, weight_OI = tensors.get(name + _DOWN), weights.get(name)
                if down_RI is None or weight_OI is None:
                    raise ModelError(f"{path}: {key} has no other half, or no weight to add to")
                more_OI = up_OR.float() @ down_RI.float()
                if more_OI.shape != weight_OI.shape:
                    raise ModelError(
                        f"{path}: {name} is {tuple(more_OI.shape)} here, and "
                        f"{tuple(weight_OI.shape)} in {self.base!r}"
                    )
                weight_OI.add_(more_OI.to(weight_OI))


def write_additions(
    folder: Path,
    base: str,
    base_sha256: str,
    factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    others: Mapping[str, torch.Tensor],
) -> None:
    """Write both files.

    Args:
        factors: name of a weight → (up [out, rank], down [rank, in]); kept as float16.
        others: tensors that are kept as they are.
    """
    import torch
    from safetensors.torch import save_file

    tensors = dict(others)
    for name, (up_OR, down_RI) in sorted(factors.items()):
        tensors[name + _UP] = up_OR.to(torch.float16).contiguous()
        tensors[name + _DOWN] = down_RI.to(torch.float16).contiguous()
    save_file(tensors, folder / TENSORS, {"format": "pt"})
    (folder / TENSORS).chmod(0o644)  # safetensors makes what nobody else can read
    about = {"base": base, "base_sha256": base_sha256}
    (folder / ABOUT).write_bytes(orjson.dumps(about, option=orjson.OPT_INDENT_2) + b"\n")
