"""API keys: how they are made, kept as salted hashes, and checked.

A key is `tartan.NAME.SECRET`. The name is no secret: it finds the line of the file, and says in a
message whose key it is. The secret is 256 random bits, so guessing it is hopeless however fast the
hash is; scrypt and the like are for passwords that people think up, and would cost each query tens
of milliseconds. So the file holds a SHA-256 of salt and secret, and a copied file opens nothing.

    # name role hash
    notebook search sha256$<salt, 32 hex digits>$<hash, 64 hex digits>
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from cluster.security.watched import Watched
from colbert_core.errors import InvalidInput

PREFIX = "tartan"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_HASH = re.compile(r"sha256\$([0-9a-f]{32})\$([0-9a-f]{64})")


class Role(enum.IntEnum):
    """What the owner of a key may do; each role may do what those before it may."""

    SEARCH = 1
    ADMIN = 2


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One line of the file: enough to recognise a key, not to make one."""

    name: str
    role: Role
    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)

    def line(self) -> str:
        """The line of the file."""
        return f"{self.name} {self.role.name.lower()} sha256${self.salt.hex()}${self.digest.hex()}"


# Compared with when the name is unknown, so that answering takes as long as with a known one.
_NOBODY = ApiKey("", Role.SEARCH, b"\0" * 16, b"\0" * 32)


def new_key(name: str, role: str) -> tuple[ApiKey, str]:
    """A new random key: its line, and the key itself, which nothing keeps.

    Raises:
        InvalidInput: the name or the role is none.
    """
    secret = secrets.token_urlsafe(32)
    salt = secrets.token_bytes(16)
    key = ApiKey(_checked_name(name), _checked_role(role), salt, _digest(salt, secret))
    return key, f"{PREFIX}.{key.name}.{secret}"


def read_keys(path: Path) -> dict[str, ApiKey]:
    """The keys of a file by name; empty lines and `#` comments are allowed.

    Raises:
        InvalidInput: a line is none; it is named by its number and not repeated.
        OSError: the file cannot be read.
    """
    keys: dict[str, ApiKey] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InvalidInput(f"{path} is no text: give the file of API keys") from None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            key = _parse(line)
        except InvalidInput as error:
            raise InvalidInput(f"{path}, line {number}: {error}") from None
        if key.name in keys:
            raise InvalidInput(f"{path}, line {number}: a second key named {key.name}; rename one")
        keys[key.name] = key
    return keys


class KeyFile:
    """The keys that are accepted now: the file is looked at for every call."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            InvalidInput: the file cannot be read, has a line that is none, or no key at all.
        """
        self._keys = Watched([path], lambda: read_keys(path))
        if not self._keys.value():
            raise InvalidInput(
                f"{path} has no key, so nobody could ask: `tartan key new NAME --role search >> "
                f"{path}` makes one"
            )

    def owner(self, presented: str) -> ApiKey | None:
        """Whose key this is, or None. Takes as long for an unknown name as for a wrong secret."""
        _, _, rest = presented.partition(f"{PREFIX}.")
        name, _, secret = rest.partition(".")
        known = self._keys.value().get(name)
        key = known or _NOBODY
        same = hmac.compare_digest(_digest(key.salt, secret), key.digest)
        return known if same and presented.startswith(f"{PREFIX}.") else None


def _parse(line: str) -> ApiKey:
    parts = line.split()
    if len(parts) != 3 or (match := _HASH.fullmatch(parts[2])) is None:
        raise InvalidInput(
            "not of the form `NAME ROLE sha256$SALT$HASH`: `tartan key new` prints such lines"
        )
    salt, digest = (bytes.fromhex(group) for group in match.groups())
    return ApiKey(_checked_name(parts[0]), _checked_role(parts[1]), salt, digest)


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"the name is {name[:80]!r}: give 1 to 63 of a-z, 0-9 and -, not beginning with -"
        )
    return name


def _checked_role(role: str) -> Role:
    known = [member.name.lower() for member in Role]
    if role not in known:
        raise InvalidInput(f"the role is {role[:80]!r}: give {' or '.join(known)}")
    return Role[role.upper()]


def _digest(salt: bytes, secret: str) -> bytes:
    return hashlib.sha256(salt + secret.encode()).digest()
