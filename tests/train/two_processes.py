"""One process of a gloo group that computes gradients: python two_processes.py REQUEST.json

The request names checkpoint, tuples, objectives with their chunks, rank, world size, a rendezvous
file and where to write: the losses and all gradients, as `average_gradients` leaves them.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from colbert_core.train import group
from colbert_core.train.batch_teachers import BatchTeachers
from colbert_core.train.batches import collate
from colbert_core.train.step import Objective, add_gradients
from colbert_core.train.student import Student
from colbert_core.train.tuple_set import Example

CPU = torch.device("cpu")


class Passages:
    """What BM25 takes of a tuple set."""

    def __init__(self, examples):
        self._texts = list(dict.fromkeys(text for one in examples for text in one.passages))

    def passages(self):
        return self._texts


def gradients(student, examples, objective, chunk=None, everything=None):
    """The loss and the gradients of every parameter, averaged over the group.

    `everything`: the examples of all processes, where these are not all.
    """
    student.zero_grad()
    batch = collate(examples, student.tokenizer, CPU)
    if objective.batch_teachers:
        teachers = BatchTeachers(objective.batch_teachers, Passages(everything or examples), CPU)
        batch = replace(batch, batch_teacher_BM=teachers.scores(examples))
    loss = add_gradients(student, batch, objective, chunk=chunk)
    group.average_gradients(student.parameters())
    found = {n: p.grad.numpy().copy() for n, p in student.named_parameters() if p.grad is not None}
    return group.mean_over_workers(loss.total.detach()).item(), found


def examples_of(tuples):
    return [Example(query, tuple(texts), np.float32(scores)) for query, texts, scores in tuples]


if __name__ == "__main__":
    request = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    rank, world = request["rank"], request["world"]
    dist.init_process_group(
        "gloo", init_method=f"file://{request['rendezvous']}", rank=rank, world_size=world
    )
    assert group.anywhere(rank == 1, CPU)
    assert not group.anywhere(False, CPU)
    everything = examples_of(request["tuples"])
    own = len(everything) // world
    student = Student.load(Path(request["checkpoint"]), CPU)
    own_tuples = everything[rank * own : (rank + 1) * own]
    written = {}
    for name, (objective, chunk) in request["objectives"].items():
        loss, found = gradients(student, own_tuples, Objective(**objective), chunk, everything)
        written |= {f"{name}/{key}": value for key, value in {"loss": loss, **found}.items()}
    np.savez(request["out"], **written)
    dist.destroy_process_group()
