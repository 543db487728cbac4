"""The model that is trained: a checkpoint's backbone and projection, as one torch module.

    student = Student.load(folder, device)
    vectors = student.encode(batch.passages)         # with gradients
    student.save(folder)                             # as it was loaded, with new weights

It reads what `Encoder` reads, under the same rules, so that what is trained is what is searched.
There is no dropout, so that a run is the same for any number of workers and any chunks.
"""

from __future__ import annotations

import copy
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from colbert_core.errors import ModelError
from colbert_core.text.additions import write_additions
from colbert_core.text.checkpoint import Checkpoint, read_checkpoint
from colbert_core.text.network import load_backbone, load_head
from colbert_core.text.query_weights import read_query_weights
from colbert_core.text.tokens import TextTokenizer
from colbert_core.train.batches import TokenBatch
from colbert_core.train.maxsim import Vectors, joined

_ADAPTERS = "adapter_modules"
_PEFT = "base_model.model."


class Student(torch.nn.Module):
    """ids → unit token vectors, float32.

    Attributes:
        tokenizer: text to ids, under the checkpoint's rules.
        checkpoint: where it was loaded from.
        query_weights_V: float32 [V], what each token of a query counts for, or None.
    """

    query_weights_V: Tensor | None

    def __init__(
        self, checkpoint: Checkpoint, backbone: torch.nn.Module, weight_DH: Tensor, bf16: bool
    ) -> None:
        """Use `load`."""
        super().__init__()
        self.checkpoint = checkpoint
        self.tokenizer = TextTokenizer(checkpoint)
        self.backbone: Any = backbone.requires_grad_(True)
        if checkpoint.languages.names:
            _freeze_languages(backbone)
        self._bf16 = bf16
        self.projection = torch.nn.Linear(weight_DH.shape[1], weight_DH.shape[0], bias=False)
        self.projection.weight.data.copy_(weight_DH)
        weights_V = read_query_weights(checkpoint.folder, self.tokenizer.vocabulary)
        own = None if weights_V is None else torch.from_numpy(weights_V)
        self.register_buffer("query_weights_V", own, persistent=False)

    @classmethod
    def load(cls, folder: Path, device: torch.device, *, bf16: bool = False) -> Student:
        """Load a late-interaction checkpoint: Stanford's format, or PyLate's with one projection.

        Args:
            bf16: run the backbone in bfloat16; weights, projection and vectors stay float32.

        Raises:
            ModelError: it cannot be loaded, or has another head than one linear layer.
        """
        checkpoint = read_checkpoint(folder)
        require_trainable(checkpoint)
        backbone, _ = load_backbone(checkpoint, torch.float32)
        (layer,) = load_head(checkpoint)
        return cls(checkpoint, backbone, layer.weight, bf16).to(device)

    def encode(self, tokens: TokenBatch) -> Vectors:
        """The token vectors of texts; zeros where a token gives none.

        Texts of like length are encoded together, since padding costs as much as text.
        """
        groups = tokens.by_length()
        if len(groups) == 1:
            return self._encode(tokens)
        sorted_ = joined([self._encode(tokens.rows(group)) for group in groups])
        back_B = torch.cat(groups).argsort()
        return Vectors(sorted_.x_BLD[back_B], sorted_.mask_BL[back_B])

    def _encode(self, tokens: TokenBatch) -> Vectors:
        return self.projected(self.hidden(tokens), tokens.kept_BL)

    def hidden(self, tokens: TokenBatch) -> Tensor:
        """What the backbone gives, float32 [B, L, H]."""
        with torch.autocast(tokens.ids_BL.device.type, torch.bfloat16, enabled=self._bf16):
            hidden_BLH: Tensor = self.backbone(
                input_ids=tokens.ids_BL, attention_mask=tokens.attention_BL
            )[0]
        return hidden_BLH.float()

    def projected(self, hidden_BLH: Tensor, kept_BL: Tensor) -> Vectors:
        """Token vectors from what the backbone gave."""
        x_BLD = torch.nn.functional.normalize(self.projection(hidden_BLH), dim=-1)
        return Vectors(x_BLD * kept_BL[..., None], kept_BL)

    def weighted(self, queries: Vectors, tokens: TokenBatch) -> Vectors:
        """The vectors of queries, each times the weight of its token, where the checkpoint has such
        (`text/query_weights.py`); training leaves the weights as they are."""
        if self.query_weights_V is None:
            return queries
        return queries.with_x(queries.x_BLD * self.query_weights_V[tokens.ids_BL, None])

    def use_lora(self, rank: int) -> None:
        """Train low-rank additions to the backbone's linear layers, and the projection, alone."""
        from peft import LoraConfig, get_peft_model

        settings = LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            target_modules="all-linear",
            exclude_modules=rf".*\.{_ADAPTERS}\..*" if self.checkpoint.languages.names else None,
        )
        with warnings.catch_warnings():  # peft asks transformers by a name that is deprecated
            warnings.simplefilter("ignore", FutureWarning)
            self.backbone = get_peft_model(self.backbone, settings)

    def save(self, folder: Path, blend: float = 1.0) -> None:
        """Write a checkpoint of the same format: low-rank additions are added in.

        The folder is made, and must not be in use: files are written in place.

        Args:
            blend: where the weights lie between those at the start, 0, and as trained, 1.
        """
        self._copy_rules(folder)
        write_weights(self.checkpoint, folder, self._merged(blend), self._projection(blend))

    def save_additions(self, folder: Path, base: str, base_sha256: str, blend: float = 1.0) -> None:
        """Write what was trained alone (`text/additions.py`), after `use_lora`: a checkpoint of a
        fortieth of the size, which Tartan loads where `base` is at hand.

        Args:
            base: path, hub name or alias of the model whose backbone the run started from.
            base_sha256: `Checkpoint.sha256` of it.
            blend: as in `save`.
        """
        self._copy_rules(folder)
        factors = {
            f"{name.removeprefix(_PEFT)}.weight": (
                module.lora_B["default"].weight.detach() * (blend * module.scaling["default"]),
                module.lora_A["default"].weight.detach(),
            )
            for name, module in self.backbone.named_modules()
            if hasattr(module, "lora_A")
        }
        form, head = self.checkpoint, {"linear.weight": self._projection(blend)}
        transformer = folder / form.transformer.relative_to(form.folder)
        own = form.format == "stanford"
        write_additions(transformer, base, base_sha256, factors, head if own else {})
        if not own:
            (dense,) = form.dense
            _save_tensors(head, folder / dense.relative_to(form.folder) / "model.safetensors")

    def _copy_rules(self, folder: Path) -> None:
        """Everything of the checkpoint that it started from but the weights."""
        source = self.checkpoint
        weights = {file.relative_to(source.folder) for file in _weights(source)}
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(source.folder.rglob("*")):
            name = file.relative_to(source.folder)
            if file.is_file() and name not in weights:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, folder / name)

    def _projection(self, blend: float) -> Tensor:
        """float32 [D, H]."""
        trained_DH = self.projection.weight.detach().cpu()
        if blend == 1.0:
            return trained_DH
        (start,) = load_head(self.checkpoint)
        return start.weight.lerp(trained_DH, blend)

    @torch.no_grad()
    def _merged(self, blend: float) -> torch.nn.Module:
        backbone = self.backbone
        if hasattr(backbone, "merge_and_unload"):
            own = copy.deepcopy(backbone)
            for module in own.modules():
                if hasattr(module, "lora_B"):
                    module.lora_B["default"].weight.mul_(blend)
            merged: torch.nn.Module = own.merge_and_unload()
            return merged
        if blend == 1.0:
            return self.backbone  # type: ignore[no-any-return]
        start, _ = load_backbone(self.checkpoint, torch.float32)
        for weight, trained in zip(start.parameters(), backbone.parameters(), strict=True):
            weight.lerp_(trained.to(weight), blend)
        return start


def write_weights(
    form: Checkpoint, folder: Path, backbone: torch.nn.Module, weight_DH: Tensor
) -> None:
    """Write backbone and projection where the format of `form` has them."""
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in backbone.state_dict().items()
    }
    head = {"linear.weight": weight_DH.contiguous()}
    if form.format == "stanford":
        prefix = str(backbone.base_model_prefix)
        named = {f"{prefix}.{name}": tensor for name, tensor in state.items()}
        _save_tensors({**named, **head}, folder / "model.safetensors")
        return
    transformer = folder / form.transformer.relative_to(form.folder)
    _save_tensors(state, transformer / "model.safetensors")
    (dense,) = form.dense
    _save_tensors(head, folder / dense.relative_to(form.folder) / "model.safetensors")


def _freeze_languages(backbone: torch.nn.Module) -> None:
    """Embeddings and adapters stay as they are, as ColBERT-XM has it: what one language teaches
    then fits the adapters of all others."""
    for name, parameter in backbone.named_parameters():
        if set(name.split(".")) & {"embeddings", _ADAPTERS, "adapter_layer_norm"}:
            parameter.requires_grad_(False)


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, path, {"format": "pt"})
    path.chmod(0o644)  # safetensors makes what nobody else can read


def require_trainable(checkpoint: Checkpoint) -> None:
    """Refuse heads other than one linear layer without bias and activation.

    Raises:
        ModelError: names what the checkpoint has.
    """
    layers = load_head(checkpoint)
    plain = len(layers) == 1 and layers[0].bias is None and not layers[0].use_residual
    if not plain or not isinstance(layers[0].activation, torch.nn.Identity):
        raise ModelError(
            f"{checkpoint.folder} has {len(layers)} projection layers, with biases, residuals or "
            "activations; training takes one linear projection, as ColBERT has it"
        )


def _weights(checkpoint: Checkpoint) -> list[Path]:
    folders = {checkpoint.folder, checkpoint.transformer, *checkpoint.dense}
    found = [path for folder in folders for path in folder.glob("*.safetensors*")]
    return found + [path for folder in folders for path in folder.glob("pytorch_model*")]
