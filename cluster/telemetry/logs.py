"""Logs of a server: lines of text, or JSON, one object a line; each says which request it is of.

What a message is about travels as fields (`log.info("…", extra=fields(k=10))`), so that nobody
needs to parse sentences. Texts of queries stand in no line unless `--log-queries` asks for it. Keys
and tokens are put in no line on purpose, and what looks like one is masked all the same.
"""

from __future__ import annotations

import datetime
import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal, TextIO, get_args

import orjson

from cluster.wire.request_context import caller, request_id
from colbert_core.errors import InvalidInput

LogFormat = Literal["text", "json"]

_SECRET = re.compile(r"tartan\.[a-z0-9-]+\.[A-Za-z0-9_-]{16,}|(?i:bearer)\s+[^\s\"']+")
_FIELDS = "tartan_fields"


def fields(**values: Any) -> dict[str, Any]:
    """`extra` of a log call: what the message is about."""
    return {_FIELDS: values}


def check_format(form: str) -> None:
    """Raise InvalidInput where there is no such format."""
    if form not in get_args(LogFormat):
        raise InvalidInput(f"the log format is {form!r}; give text or json")


def configure_logging(form: str, stream: TextIO | None = None) -> None:
    """Write the logs of this process to `stream` (stderr) as `form` says; warnings, and what our
    own packages report.

    Raises:
        InvalidInput: there is no such format.
    """
    check_format(form)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for ours in ("cluster", "workers", "colbert_core"):
        logging.getLogger(ours).setLevel(logging.INFO)


def masked(text: str) -> str:
    """The text without what looks like an API key or a token."""
    return _SECRET.sub("[masked]", text)


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, request_id, client, and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": _time_of(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_about_request(),
            **_fields_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return masked(orjson.dumps(line, default=str).decode())


class TextLines(logging.Formatter):
    """For people: time, level, message, and the rest as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; below it the traceback, if there is one."""
        about = {**_about_request(), **_fields_of(record)}
        named = "".join(f" {name}={_plain(value)}" for name, value in about.items())
        line = f"{_time_of(record)} {record.levelname} {record.getMessage()}{named}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return masked(line)


def _about_request() -> dict[str, str]:
    known = {"request_id": request_id(), "client": caller()}
    return {name: value for name, value in known.items() if value}


def _fields_of(record: logging.LogRecord) -> Mapping[str, Any]:
    return getattr(record, _FIELDS, {})


def _time_of(record: logging.LogRecord) -> str:
    when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[^\s\"={}]+", value):
        return value
    return orjson.dumps(value, default=str).decode()
