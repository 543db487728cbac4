"""The command line: what it prints, and the exit code of everything that can be wrong."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import runner
from typer.main import get_command

from cluster.cli import app
from cluster.cli_search import snippet
from colbert_core import Hit, Index, TokenMatch


@pytest.fixture
def tartan(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    return runner(monkeypatch, capfd)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    vectors = []
    for _ in range(30):
        x = rng.standard_normal((4, 16)).astype(np.float32)
        vectors.append(x / np.linalg.norm(x, axis=1, keepdims=True))
    path = tmp_path_factory.mktemp("cli") / "ix"
    Index.build(path, vectors)
    return path


def test_inspect_and_verify_print_json(tartan: Any, built: Path) -> None:
    about = tartan("index", "inspect", built, "--json").json()
    assert about["passages"] == 30
    assert sum(about["bytes"].values()) == about["bytes_total"]
    assert tartan("index", "verify", built, "--json").json()["ok"]
    plain = tartan("index", "verify", built)
    assert plain.code == 0
    assert "whole" in plain.out


def test_verify_exits_1_naming_the_file(tartan: Any, built: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(built, tmp_path / "ix"))
    codes = next(broken.glob("shards/*/codes.npy"))
    content = bytearray(codes.read_bytes())
    content[-1] ^= 1
    codes.write_bytes(bytes(content))
    result = tartan("index", "verify", broken)
    assert result.code == 1
    assert "codes.npy" in result.err
    assert "altered" in result.err


CORPORA = {
    "empty": (b"", 3, "no passage"),
    "missing id": (b'{"text": "a"}\n', 3, "c.jsonl:1"),
    "duplicate": (b'{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n', 3, "'a'"),
    "text is no string": (b'{"id": "a", "text": 5}\n', 3, "c.jsonl:1"),
    "invalid UTF-8": (b'{"id": "a", "text": "x"}\n{"id": "b", "text": "\xff"}\n', 3, "c.jsonl:2"),
    "broken line": (b'{"id": "a", "text": "x"}\n{"id": \n', 3, "c.jsonl:2"),
}


@pytest.mark.parametrize("case", CORPORA)
def test_a_bad_corpus_is_refused_before_any_work(case: str, tartan: Any, tmp_path: Path) -> None:
    content, code, message = CORPORA[case]
    (tmp_path / "c.jsonl").write_bytes(content)
    result = tartan("index", "build", tmp_path / "c.jsonl", "--out", tmp_path / "ix")
    assert (result.code, message in result.err) == (code, True), result.err
    assert not (tmp_path / "ix" / "CURRENT").exists()


def test_each_kind_of_mistake_has_its_exit_code(tartan: Any, built: Path, tmp_path: Path) -> None:
    good = tmp_path / "good.jsonl"
    good.write_text('{"id": "a", "text": "x"}\n')
    build = ("index", "build", good, "--out")
    cases = [
        (("index", "build", tmp_path / "no.jsonl", "--out", tmp_path / "ix"), 3, "no such file"),
        ((*build, tmp_path / "ix", "--model", "nobody/nothing"), 4, "nobody/nothing"),
        ((*build, built), 6, "--overwrite"),
        ((*build, tmp_path / "ix", "--bits", "9"), 2, "9"),
        ((*build, tmp_path / "ix", "--dim", "12"), 2, "multiple of 8"),
        ((*build, tmp_path / "ix", "--pool-factor", "17"), 2, "pool_factor is 17"),
        (("index", "inspect", tmp_path / "nowhere"), 5, "tartan index build"),
        (("search", "x", "--index", tmp_path / "nowhere"), 5, "no index here"),
        (("search", "x", "--index", built), 2, "knows no model"),
        (("search", "x", "--index", built, "-k", "0"), 2, "k is 0"),
        (("search", "x", "--index", built, "-k", "99999"), 2, "10,000"),
        (("search", "x", "--index", built, "--target", "localhost:1"), 2, "choose one"),
        (("eval", "--data", tmp_path, "--index", built), 3, "BEIR"),
        (("eval", "--data", tmp_path), 2, "--index INDEX or --target"),
        (("serve", tmp_path / "nowhere"), 5, "no index here"),
        (("serve", built, "--port", "99999"), 2, "99999"),
    ]
    for words, code, message in cases:
        result = tartan(*words)
        assert result.code == code, (words, result.err)
        assert message in result.err, (words, result.err)
        assert "Traceback" not in result.err, words


def test_no_gateway_at_the_target_exits_7(tartan: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        result = tartan("search", "x", "--target", f"127.0.0.1:{port}", "--timeout", "2")
    assert result.code in (7, 8)
    assert str(port) in result.err


def test_every_command_teaches(tartan: Any) -> None:
    command = get_command(app)
    of_index = command.commands["index"].commands  # type: ignore[attr-defined]
    others = ["serve", "rollout", "scale", "drain", "status", "doctor", "health"]
    others += ["search", "eval", "plan", "demo"]
    assert set(command.commands) == {"index", "key", "train", *others}  # type: ignore[attr-defined]
    names = [*(f"index {name}" for name in of_index), "key new", *others]
    for name in names:
        shown = tartan(*name.split(), "--help")
        assert shown.code == 0
        assert len(shown.out.splitlines()) > 8, name


def test_a_snippet_shows_and_marks_what_matched() -> None:
    text = "word " * 200 + "the needle in it" + " word" * 200
    start = text.index("needle")
    match = TokenMatch("needle", 0, 5, 0.9, start, start + 3)  # a piece of the word
    shown = snippet(Hit("a", 1.0, text, {}, (match,)))
    assert "needle" in shown.plain
    span = next(s for s in shown.spans if s.style)
    assert shown.plain[span.start : span.end] == "needle"
