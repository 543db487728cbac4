"""Training a late-interaction model: tuples, losses, batches, mining, evaluation; no Ray here.

    records.py      one line of a tuple file, in each of the formats that are read
    tuples.py       reading and writing tuple files, streaming
    text_store.py   texts on disk, by row or by id
    tuple_set.py    checked tuples on disk, by ordinal: what a training run reads

The workers (`workers/train_*.py`) and `tartan train` stand above this; serving never imports it.
"""
