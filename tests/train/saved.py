"""Tiny checkpoints as training saves them: python tests/train/saved.py OUT writes one of each form.

Those in tests/fixtures/train_parity were loaded by colbert-ai and PyLate themselves.
"""

import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "core"))
from text_checkpoints import plain

from colbert_core.train.preparing import prepare_tuples
from colbert_core.train.starting import StudentSettings, start_student
from colbert_core.train.trainer import StudentLearner, Trainer, TrainSettings

FORMS = {"saved_stanford": True, "saved_pylate": False}  # with query augmentation, or without
TEXTS = [
    "late interaction keep one vector",
    "Hello, WORLD: the query of a passage!",
    "unaffordable café … for each token, and then more than fits into the twenty tokens of a text",
    "?",
]
LINE = '{"query": "hello", "documents": ["hello world", "one vector"], "scores": [2.0, 0.5]}\n'


def make(folder, augment):
    """Start from a random encoder, train for two steps, and save."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        settings = StudentSettings(dim=16, augment=augment, query_maxlen=12, doc_maxlen=20)
        start_student(plain(place / "model"), place / "start", settings)
        (place / "tuples.jsonl").write_text(LINE * 4)
        tuples = prepare_tuples(place / "tuples", [place / "tuples.jsonl"])
        run = TrainSettings(steps=2, batch=4, rate=0.01)
        trainer = Trainer(StudentLearner(place / "start", run, torch.device("cpu")), tuples, run)
        trainer.step()
        trainer.step()
        trainer.learner.save(folder)
    return folder


if __name__ == "__main__":
    for name, augment in FORMS.items():
        make(Path(sys.argv[1]) / name / "checkpoint", augment)
