"""How `tartan-minilm`, the default model, is trained: data, commands and seeds.

    python docs/default-model/recipe.py --pairs ../shared/data/train --out build/default-model

    pairs ─ held back and taught ─ mine ─ a wide teacher ─ score ─ distill ─ read_whole
                                                                               │
                                                                     OUT/run/additions

What comes out is `colbert_core/text/models/tartan-minilm` (but for `vocab.txt`, which says again
what `tokenizer.json` does); what it cost and is worth is in docs/decisions/training.md.

The teacher is late interaction too, at all of the backbone's dimensions: it learns from labels
alone, the first three passages of tuples of six, and scores other tuples together with BM25.

The pairs are (question, passage) and (title, abstract), in English; of most of the abstracts a
sentence is the query and the rest the passage. Pairs of scifact are left out, since it is measured.
A tenth of the passages, with all their questions, is held back: on a sample of these the student is
measured before and after. With `--loss v1` the same student learns from the same tuples without a
teacher, for comparison.

Every command goes on where it was stopped when the script is run again.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

SEED = 0
HELD_BACK = 10  # one passage in so many
TAUGHT = {
    "qamr": 2000,
    "squadshifts-amazon-reviews": 2000,
    "squadshifts-new-wiki": 2000,
    "acl-anthology": 6000,
}
SENTENCES = 3600  # abstracts that are asked for by a sentence of theirs instead of the title
WORDS = 8  # of such a sentence, at least
KINDS = ("questions", "titles", "sentences")
ASKED, DISTRACTORS = 200, 800  # held-back questions of each source, and passages beside theirs
RUN = (
    "--no-markers --no-augment --query-maxlen 256 --doc-maxlen 300 --weigh-queries --n-way 3"
    " --batch 24 --rate 5e-4 --lora 16 --bf16 --passage-tokens 160 --workers 2"
)
WIDE = "--dim 384 --loss v1 --steps 300 --warmup 30 --blend 0.7"
STUDENT = "--dim 128 --steps 280 --warmup 28 --blend 0.7"
READ = 512  # tokens of a passage, once it is trained

Pair = Mapping[str, str]


def main() -> None:
    """Make the data, then run the commands."""
    parser = argparse.ArgumentParser(description="Train a default model.")
    parser.add_argument("--pairs", type=Path, required=True, help="Folder of *.jsonl.gz.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--loss", default="kl", help="kl: from the teachers; v1: from labels.")
    options = parser.parse_args()
    out: Path = options.out
    if not (out / "held-back").is_dir():
        write_data(options.pairs, out)
    texts = ["--corpus", out / "corpus.jsonl", "--queries", out / "queries.jsonl"]
    common = [*texts, *RUN.split(), "--seed", SEED]
    wide, scored = out / "teacher", out / "scored.jsonl"
    if not scored.exists():
        tartan("distill", *mined(out, 6), *common, *WIDE.split(), "--out", wide)
        teachers = ["--teacher", f"maxsim:{wide / 'checkpoint'}", "--teacher", "bm25"]
        tartan(
            "score", *mined(out, 3), *texts, *teachers, "--workers", 2, "--bf16", "--out", scored
        )
    run = out / ("run" if options.loss == "kl" else f"run-{options.loss}")
    measured = ["--data", out / "held-back", "--split", "test"]
    student = [*common, *STUDENT.split(), "--loss", options.loss, *measured]
    tartan("distill", scored, *student, "--out", run)
    read_whole(run / "additions")


def mined(out: Path, n_way: int) -> list[Path]:
    """Tuples of each kind of query, mined among the passages of their kind."""
    paths = [out / f"mined-{n_way}-{kind}.jsonl" for kind in KINDS]
    for kind, path in zip(KINDS, paths, strict=True):
        if not path.exists():
            own = ["--corpus", out / f"{kind}.jsonl", "--queries", out / "queries.jsonl"]
            window = ["--bm25", "--n-way", n_way, "--ranks", "2:30", "--seed", SEED]
            tartan("mine", out / f"qrels/{kind}.tsv", *own, *window, "--out", path)
    return paths


def tartan(*words: object) -> None:
    """Run a command of `tartan train`, and show it."""
    command = ["train", *map(str, words)]
    print("tartan", *command, flush=True)
    subprocess.run([sys.executable, "-m", "cluster.cli", *command], check=True)


def read_whole(model: Path) -> None:
    """Let the model read longer passages than while it was trained."""
    path = model / "config_sentence_transformers.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**settings, "document_length": READ}, indent=1) + "\n", "utf-8")


def write_data(folder: Path, out: Path) -> None:
    """Corpus, queries and judgements to learn from, and a held-back collection."""
    pairs = [pair for pair in read_pairs(folder) if pair["source"] in TAUGHT]
    random.Random(SEED).shuffle(pairs)
    sources = {name: [pair for pair in pairs if pair["source"] == name] for name in TAUGHT}
    taught = {
        name: [pair for pair in own if not held_back(pair)][: TAUGHT[name]]
        for name, own in sources.items()
    }
    abstracts = taught.pop("acl-anthology")
    kinds = {
        "questions": [pair for own in taught.values() for pair in own],
        "titles": abstracts[SENTENCES:],
        "sentences": [taken for pair in abstracts[:SENTENCES] for taken in sentence_of(pair)],
    }
    everything = [pair for name in KINDS for pair in kinds[name]]
    ids = {passage(pair): f"p{number}" for number, pair in enumerate(everything)}
    for name, some in kinds.items():
        write(out / f"{name}.jsonl", passages(some, ids))
        judged = ((query_id(pair), ids[passage(pair)]) for pair in some)
        write_qrels(out / f"qrels/{name}.tsv", judged)
    write(out / "corpus.jsonl", passages(everything, ids))
    write(out / "queries.jsonl", queries(everything))
    write_held_back(out / "held-back", {name: sources[name] for name in taught})


def write_held_back(out: Path, sources: Mapping[str, list[Pair]]) -> None:
    """Questions of passages that are not taught, among these and some that are."""
    asked = [p for own in sources.values() for p in list(filter(held_back, own))[:ASKED]]
    others = [pair for own in sources.values() for pair in own if not held_back(pair)]
    texts = list(dict.fromkeys(map(passage, others)))[:DISTRACTORS]
    ids = {text: f"p{number}" for number, text in enumerate([*map(passage, asked), *texts])}
    write(out / "corpus.jsonl", passages([*asked, *others], ids))
    write(out / "queries.jsonl", queries(asked))
    write_qrels(out / "qrels/test.tsv", ((query_id(pair), ids[passage(pair)]) for pair in asked))


def read_pairs(folder: Path) -> Iterator[Pair]:
    """All pairs of the English files."""
    for path in sorted(folder.glob("en-*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def sentence_of(pair: Pair) -> Iterator[Pair]:
    """A sentence of a passage as the query, the others as the passage, if there are enough."""
    sentences = re.split(r"(?<=[.?!])\s+(?=[A-Z])", pair["positive"])
    long = [at for at, sentence in enumerate(sentences) if len(sentence.split()) >= WORDS]
    if len(sentences) < 4 or not long:
        return
    taken = sentences.pop(long[number(pair["positive"]) // HELD_BACK % len(long)])
    yield {**pair, "query": taken, "positive": " ".join(sentences)}


def passage(pair: Pair) -> str:
    """Its text; only Wikipedia's titles say something."""
    title = pair["title"].replace("_", " ") if pair["source"].endswith("new-wiki") else ""
    return f"{title} {pair['positive']}".strip()


def held_back(pair: Pair) -> bool:
    """By the passage, so that all its questions are."""
    return number(pair["positive"]) % HELD_BACK == 0


def query_id(pair: Pair) -> str:
    """The same wherever a pair stands."""
    return f"q{number(pair['query'] + chr(0) + pair['positive']):08x}"


def number(text: str) -> int:
    """A hash of 32 bits."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)


def passages(pairs: Iterable[Pair], ids: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each that has an id, once."""
    texts = dict.fromkeys(passage(pair) for pair in pairs)
    return [{"_id": ids[text], "text": text} for text in texts if text in ids]


def queries(pairs: Iterable[Pair]) -> list[dict[str, Any]]:
    """Each once."""
    texts = {query_id(pair): pair["query"] for pair in pairs}
    return [{"_id": name, "text": text} for name, text in texts.items()]


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_qrels(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """BEIR's judgements."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{query}\t{text}\t1\n" for query, text in dict.fromkeys(rows)]
    path.write_text("query-id\tcorpus-id\tscore\n" + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
