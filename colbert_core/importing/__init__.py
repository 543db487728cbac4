"""Indexes of other engines, made indexes of ours."""

from colbert_core.importing.report import ImportReport
from colbert_core.importing.run import import_index

__all__ = ["ImportReport", "import_index"]
