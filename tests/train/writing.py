"""A tiny random causal model, and a server on loopback that speaks OpenAI's protocol over it."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "core"))
from text_checkpoints import WORDS

from colbert_core.train.writers import LocalWriter, Sampling

KEY = "sk-tartan-very-secret"


def causal(folder: Path) -> Path:
    """A two-layer GPT-2 of random weights that knows a few words, and writes no others."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = ["[PAD]", *dict.fromkeys(WORDS.split())]
    tokenizer = Tokenizer(WordLevel(dict(zip(words, range(99), strict=False)), unk_token="[PAD]"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(words),
        n_positions=600,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=None,
        eos_token_id=None,
        initializer_range=0.2,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


class Service(ThreadingHTTPServer):
    """Attributes:
    asked: the bodies of the requests that it answered.
    troubles: what it says instead, first ones first: (status, headers, body).
    """

    daemon_threads = True

    def __init__(self, model: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.writer = LocalWriter.load(model, Sampling(max_tokens=8), batch=1)
        self.lock = threading.Lock()
        self.asked: list[dict] = []
        self.troubles: list[tuple[int, dict, bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            return self._say(404, {}, b'{"error": {"message": "no such path"}}')
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            given = self.headers.get("Authorization", "nothing")
            return self._say(401, {}, f'{{"error": "wrong key: {given}"}}'.encode())
        with self.server.lock:
            if self.server.troubles:
                return self._say(*self.server.troubles.pop(0))
            self.server.asked.append(body)
            (text,) = self.server.writer.write([body["messages"][0]["content"]], body["seed"])
        answer = {"choices": [{"message": {"role": "assistant", "content": text}}]}
        return self._say(200, {}, json.dumps(answer).encode())

    def _say(self, status: int, headers: dict, body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent."""


@contextmanager
def serving(model: Path) -> Iterator[Service]:
    service = Service(model)
    thread = threading.Thread(target=service.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield service
    finally:
        service.shutdown()
        service.server_close()
        thread.join()
