"""The backbone and the projection of a checkpoint, as one function from ids to vectors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from colbert_core.errors import ModelError
from colbert_core.text.aliases import locate
from colbert_core.text.checkpoint import Checkpoint, read_checkpoint, weight_files
from colbert_core.text.quiet import quiet_transformers
from colbert_core.text.settings import Settings

_ACTIVATIONS = {
    name: getattr(torch.nn, name)
    for name in ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid", "Mish", "ELU", "LeakyReLU")
}
_DENSE_KEYS = {
    "in_features",
    "out_features",
    "bias",
    "activation_function",
    "use_residual",
    "module_input_name",
    "module_output_name",
}


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """activation(x · weightᵀ + bias), plus x or x · residualᵀ where `use_residual`."""

    weight: Tensor
    bias: Tensor | None
    activation: torch.nn.Module
    use_residual: bool = False
    residual: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(torch.nn.functional.linear(x, self.weight, self.bias))
        if not self.use_residual:
            return y
        kept = x if self.residual is None else torch.nn.functional.linear(x, self.residual)
        return y + kept


class Network:
    """ids → token vectors. The backbone runs in `dtype`, the projection in float32."""

    def __init__(
        self, backbone: torch.nn.Module, head: list[DenseLayer], device: torch.device, width: int
    ) -> None:
        self._backbone = backbone
        self._head = head
        self.device = device
        self.dim = head[-1].weight.shape[0] if head else width

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Network:
        """Load the weights.

        Raises:
            ModelError: weights are missing or do not fit the configuration.
        """
        backbone, width = load_backbone(checkpoint, dtype)
        head = [_to(layer, device) for layer in load_head(checkpoint)]
        for layer in head:
            if layer.weight.shape[1] != width:
                raise ModelError(
                    f"{checkpoint.folder}: a projection takes {layer.weight.shape[1]} dimensions,"
                    f" but what comes before it gives {width}"
                )
            width = layer.weight.shape[0]
        return cls(backbone.to(device), head, device, width)

    def __call__(
        self, ids_BL: Tensor, attention_BL: Tensor, kept_R: Tensor, language: int | None = None
    ) -> Tensor:
        """float32 [R, D], not normalised: the vectors at the flat positions `kept_R` of [B·L].

        `language` is the adapter's place, where the backbone has adapters.
        """
        options = {}
        if language is not None:
            options["lang_ids"] = torch.full((len(ids_BL),), language, device=self.device)
        hidden_BLH = self._backbone(
            input_ids=ids_BL.to(self.device), attention_mask=attention_BL.to(self.device), **options
        )[0]
        x: Tensor = hidden_BLH.flatten(0, 1)[kept_R.to(self.device)].float()
        for layer in self._head:
            x = layer(x)
        return x


def load_backbone(checkpoint: Checkpoint, dtype: torch.dtype) -> tuple[torch.nn.Module, int]:
    """The backbone, frozen and without dropout, and the width of what it gives.

    Raises:
        ModelError: weights are missing or do not fit the configuration.
    """
    if checkpoint.additions is not None:
        base = read_checkpoint(locate(checkpoint.additions.base))
        checkpoint.additions.require(base.sha256())
        backbone, width = load_backbone(base, torch.float32)
        checkpoint.additions.add_to(backbone)
        return backbone.to(dtype), width
    return _own_backbone(checkpoint, dtype)


def _own_backbone(checkpoint: Checkpoint, dtype: torch.dtype) -> tuple[torch.nn.Module, int]:
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding

    folder = str(checkpoint.transformer)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(folder, **options)
            # Of an encoder-decoder such as T5 only the encoder reads.
            kind = AutoModelForTextEncoding if config.is_encoder_decoder else AutoModel
            backbone, report = kind.from_pretrained(
                folder, config=config, dtype=dtype, output_loading_info=True, **options
            )
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, …
        raise ModelError(
            f"{folder} cannot be loaded as an encoder ({type(error).__name__}: {error}). It must"
            " be a model that transformers.AutoModel loads without code of its own"
        ) from error
    # A pooling layer is not used here, and many checkpoints leave it out.
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if missing:
        raise ModelError(
            f"{folder}: the weights lack {len(missing)} tensors of a {config.model_type}"
            f" ({', '.join(missing[:3])}, …): the checkpoint is incomplete or of another kind"
        )
    return backbone.eval().requires_grad_(False), int(config.get_text_config().hidden_size)


def load_head(checkpoint: Checkpoint) -> list[DenseLayer]:
    """The projection, in float32: no layer, one, or several (pylate).

    Raises:
        ModelError: weights are missing.
    """
    if checkpoint.format == "stanford":
        weight = _load_tensors(checkpoint.folder, {"linear.weight"}).get("linear.weight")
        if weight is None:
            raise ModelError(
                f"{checkpoint.folder} says that it is an HF_ColBERT, but its weights have no"
                " linear.weight: the checkpoint is incomplete"
            )
        return [DenseLayer(weight, None, torch.nn.Identity())]
    return [_load_dense(folder) for folder in checkpoint.dense]


def _load_dense(folder: Path) -> DenseLayer:
    config = Settings.read(folder / "config.json")
    unknown = sorted(set(config.values) - _DENSE_KEYS)
    if unknown:
        raise ModelError(
            f"{config.path}: unknown key {', '.join(unknown)}; Tartan knows"
            f" {', '.join(sorted(_DENSE_KEYS))}"
        )
    wanted = {"linear.weight"}
    if config.flag("bias", True):
        wanted.add("linear.bias")
    use_residual = config.flag("use_residual", False)
    if use_residual and config.count("in_features", 1) != config.count("out_features", 1):
        wanted.add("residual.weight")
    tensors = _load_tensors(folder, wanted)
    if missing := sorted(wanted - set(tensors)):
        raise ModelError(f"{folder}: the weights lack {', '.join(missing)}")
    return DenseLayer(
        weight=tensors["linear.weight"],
        bias=tensors.get("linear.bias"),
        activation=_activation(config),
        use_residual=use_residual,
        residual=tensors.get("residual.weight"),
    )


def _activation(config: Settings) -> torch.nn.Module:
    """Only activations known by name: a checkpoint must not choose code to run."""
    name = config.text("activation_function", "torch.nn.modules.linear.Identity")
    kind = _ACTIVATIONS.get(name.rpartition(".")[2])
    if kind is None or not name.startswith("torch.nn."):
        raise ModelError(
            f"{config.path}: activation {name!r} is not one of"
            f" {', '.join(_ACTIVATIONS)} of torch.nn"
        )
    activation: torch.nn.Module = kind()
    return activation


def _load_tensors(folder: Path, names: set[str]) -> dict[str, Tensor]:
    """Those of `names` that the folder's weight files hold, as float32."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, Tensor] = {}
    for file in weight_files(folder):
        try:
            if file.suffix == ".safetensors":
                with safe_open(file, framework="pt") as tensors:
                    found.update({n: tensors.get_tensor(n) for n in names & set(tensors.keys())})
            else:
                state = torch.load(file, map_location="cpu", weights_only=True)
                found.update({name: state[name] for name in names & set(state)})
        except (OSError, RuntimeError, SafetensorError, ValueError) as error:
            raise ModelError(f"{file} cannot be read as weights: {error}") from error
    return {name: tensor.float() for name, tensor in found.items()}


def _to(layer: DenseLayer, device: torch.device) -> DenseLayer:
    def move(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(device)

    return DenseLayer(
        layer.weight.to(device),
        move(layer.bias),
        layer.activation,
        layer.use_residual,
        move(layer.residual),
    )
