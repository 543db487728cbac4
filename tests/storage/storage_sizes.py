"""How large the index is that the storage tests share."""

DIM = 32
PASSAGES = 90
