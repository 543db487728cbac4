"""`tartan key`: API keys for `tartan serve --api-keys`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

key_app = typer.Typer(no_args_is_help=True, help="Make API keys for `tartan serve --api-keys`.")


@key_app.callback()
def _group() -> None:
    """Keep `new` a subcommand though it is the only one."""


@key_app.command("new")
def new_command(
    name: Annotated[str, typer.Argument(help="Whose key it is: a-z, 0-9 and -.")],
    role: Annotated[str, typer.Option("--role", help="search, or admin (which may search, too).")],
) -> None:
    """Make a key: its line for the file goes to stdout, the key itself, once, to stderr.

    The line holds a salted hash; nothing keeps the key. To take a key back, delete its line:
    servers read the file again at the next call.

    Example: `tartan key new notebook --role search >> api-keys`
    """
    from cluster.security.api_keys import new_key

    line, key = new_key(name, role)
    print(line.line(), flush=True)
    if sys.stderr.isatty():
        print(
            f"the key of {name}, shown this once; clients take it from TARTAN_API_KEY:",
            file=sys.stderr,
        )
    print(key, file=sys.stderr)
