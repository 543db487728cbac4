"""Tiny random checkpoints in each format, made on the spot (used by test_text_*.py)."""

import json
import string
from pathlib import Path

import torch
from safetensors.torch import save_file

WORDS = (
    "late interaction keep one vector for each token of query and passage the un hello world caf"
)
PIECES = ("##afford", "##able")
VOCABULARY = [
    "[PAD]",
    "[unused0]",
    "[unused1]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *string.punctuation,
    *string.ascii_lowercase,
    *("##" + letter for letter in string.ascii_lowercase),
    *WORDS.split(),
    *PIECES,
]
LANGUAGES = ("en_XX", "de_DE", "zh_CN", "zh_TW")
HIDDEN = 24
POSITIONS = 40


def id_of(token: str) -> int:
    return VOCABULARY.index(token)


def write_tokenizer(folder: Path, added: tuple[str, ...] = ()) -> int:
    """A lowercasing WordPiece tokenizer; returns its size."""
    from transformers import BertTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    tokenizer = BertTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(added))
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def write_backbone(folder: Path, vocabulary_size: int, seed: int = 0, **settings):
    """A two-layer BERT; returns its state."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=vocabulary_size,
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=POSITIONS,
        initializer_range=0.2,
        **settings,
    )
    model = BertModel(config)
    model.save_pretrained(folder)
    return model.state_dict()


def plain(folder: Path, seed: int = 0) -> Path:
    write_backbone(folder, write_tokenizer(folder), seed)
    return folder


def stanford(folder: Path, *, pickled: bool = False, dim: int = 16, **metadata) -> Path:
    state = write_backbone(folder, write_tokenizer(folder))
    weights = {f"bert.{name}": tensor.clone() for name, tensor in state.items()}
    weights["linear.weight"] = torch.randn(dim, HIDDEN)
    (folder / "model.safetensors").unlink()
    if pickled:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    edit(folder / "config.json", architectures=["HF_ColBERT"])
    settings = {"query_maxlen": 12, "doc_maxlen": 20, **metadata}
    (folder / "artifact.metadata").write_text(json.dumps(settings))
    return folder


def xmod(folder: Path, *, default: str | None = None, dim: int = 16, **metadata) -> Path:
    """An X-MOD with a projection, as ColBERT-XM is published: Stanford's format."""
    from transformers import XmodConfig, XmodModel

    torch.manual_seed(0)
    config = XmodConfig(
        vocab_size=write_tokenizer(folder),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=POSITIONS,
        pad_token_id=0,
        initializer_range=0.2,
        languages=LANGUAGES,
        default_language=default,
    )
    model = XmodModel(config)
    model.save_pretrained(folder)
    weights = {f"roberta.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    weights["linear.weight"] = torch.randn(dim, HIDDEN)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    edit(folder / "config.json", architectures=["HF_ColBERT"])
    settings = {"query_maxlen": 12, "doc_maxlen": 20, **metadata}
    (folder / "artifact.metadata").write_text(json.dumps(settings))
    return folder


def pylate(folder: Path, dense: list[dict] | None = None, **settings) -> Path:
    write_backbone(folder, write_tokenizer(folder, ("[Q] ", "[D] ")))
    modules = [{"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}]
    for number, layer in enumerate(dense or [{}], start=1):
        place = f"{number}_Dense"
        modules.append({"idx": number, "path": place, "type": "pylate.models.Dense.Dense"})
        _write_dense(folder / place, layer)
    (folder / "modules.json").write_text(json.dumps(modules))
    written = {
        "query_prefix": "[Q] ",
        "document_prefix": "[D] ",
        "query_length": 12,
        "document_length": 20,
        **settings,
    }
    (folder / "config_sentence_transformers.json").write_text(json.dumps(written))
    return folder


def _write_dense(folder: Path, layer: dict) -> None:
    config = {
        "in_features": HIDDEN,
        "out_features": 16,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
        "use_residual": False,
        **layer,
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    shape = (config["out_features"], config["in_features"])
    weights = {"linear.weight": torch.randn(shape)}
    if config["bias"]:
        weights["linear.bias"] = torch.randn(shape[0])
    if config["use_residual"] and shape[0] != shape[1]:
        weights["residual.weight"] = torch.randn(shape)
    save_file(weights, folder / "model.safetensors")


def edit(path: Path, **changes) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
