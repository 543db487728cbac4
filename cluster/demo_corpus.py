"""The corpus that every machine has: the documentation of Python's standard library.

Read from the running interpreter: every module, and every public class, function and method with a
docstring. The id is the dotted name.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

# Importing these acts (opens a browser, prints a poem, starts a screen) or needs a display.
_SKIPPED = {"antigravity", "this", "idlelib", "turtledemo", "lib2to3", "test", "tkinter", "turtle"}
MIN_CHARS = 25


def write_corpus(path: Path) -> int:
    """Write the corpus as JSON lines; returns the number of passages."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for name, kind, text in documents():
            row = {"id": name, "text": text, "kind": kind}
            file.write(json.dumps(row) + "\n")
            count += 1
    return count


def documents() -> Iterator[tuple[str, str, str]]:
    """(dotted name, kind, documentation) in a fixed order, each name once."""
    seen: set[str] = set()
    for module in _modules():
        members = [(module.__name__, module, "module"), *_members(module)]
        for name, thing, kind in members:
            documented = inspect.getdoc(thing) or ""
            if name not in seen and len(documented) >= MIN_CHARS:
                seen.add(name)
                yield name, kind, f"{name}{_signature(thing)}\n{documented}"


def _modules() -> Iterator[ModuleType]:
    for name in sorted(sys.stdlib_module_names):
        if name.startswith("_") or name in _SKIPPED:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield importlib.import_module(name)
        except ImportError:
            continue  # for another operating system


def _members(module: ModuleType) -> Iterator[tuple[str, Any, str]]:
    """Public classes and functions of a module, and the methods of its classes."""
    for name, thing in sorted(vars(module).items()):
        if name.startswith("_"):
            continue
        dotted = f"{module.__name__}.{name}"
        if inspect.isclass(thing) and _lives_in(thing, module):
            yield dotted, thing, "class"
            for method, function in sorted(vars(thing).items()):
                if not method.startswith("_") and callable(getattr(thing, method, None)):
                    yield f"{dotted}.{method}", function, "method"
        elif inspect.isroutine(thing) and _lives_in(thing, module):
            yield dotted, thing, "function"


def _lives_in(thing: Any, module: ModuleType) -> bool:
    """Whether a thing belongs here, or to this module's C part, rather than being imported."""
    home = getattr(thing, "__module__", None) or module.__name__
    return bool(home.lstrip("_") == module.__name__.lstrip("_"))


def _signature(thing: Any) -> str:
    """The arguments of a function or method; nothing for what has none to show."""
    if isinstance(thing, ModuleType) or inspect.isclass(thing):
        return ""
    try:
        return str(inspect.signature(thing))
    except (ValueError, TypeError, AttributeError):  # what C code says of itself may not parse
        return ""
