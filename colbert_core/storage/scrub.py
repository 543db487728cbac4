"""Messages of others, without secrets.

No library that is used here puts a secret into a message; this is for the day on which one does.
"""

from __future__ import annotations

import os
import re

_SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY|CREDENTIAL", re.IGNORECASE)
_USERINFO = re.compile(r"://[^/\s@]+@")
_MIN_LENGTH = 6  # shorter values would strike out ordinary words


def scrubbed(message: object) -> str:
    """A message with userinfo in URLs, and values of the environment's secrets, struck out."""
    text = _USERINFO.sub("://…@", str(message))
    for name, value in os.environ.items():
        if len(value) >= _MIN_LENGTH and _SECRET.search(name):
            text = text.replace(value, "…")
    return text
