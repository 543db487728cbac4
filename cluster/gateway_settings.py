"""Any number of a gateway by its name, `NAME=VALUE`: limits, admission, caches, tail.

    tartan serve INDEX --set max_k=100 --set client_qps=50 --set hedge_budget=0.02

One option stands for some forty numbers that few will ever change; docs/serving.md lists them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from cluster.gateway_config import GatewayConfig
from cluster.gateway_limits import check_limits
from cluster.wire.types import Limits
from colbert_core.errors import InvalidInput

Number = int | float


def with_settings(
    settings: Sequence[str], config: GatewayConfig, limits: Limits
) -> tuple[GatewayConfig, Limits]:
    """The configuration and the limits with these values in place of their own.

    Args:
        settings: each NAME=VALUE.

    Raises:
        InvalidInput: a name is not known, or a value not possible for it; says which are.
    """
    parts = {"config": config, "limits": limits, "tail": config.tail}
    holder = {name: part for part, held in parts.items() for name in _numbers(held)}
    changes: dict[str, dict[str, Number]] = {part: {} for part in parts}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in holder:
            raise InvalidInput(
                f"setting {setting[:80]!r} is none: give NAME=VALUE with one of "
                f"{', '.join(sorted(holder))}"
            )
        part = holder[name]
        changes[part][name] = _number(name, value, type(getattr(parts[part], name)))
    tail = replace(config.tail, **changes["tail"])  # type: ignore[arg-type]
    config = replace(config, tail=tail, **changes["config"])  # type: ignore[arg-type]
    limits = replace(limits, **changes["limits"])  # type: ignore[arg-type]
    config.check()
    check_limits(limits)
    return config, limits


def _numbers(held: Any) -> list[str]:
    """What of a dataclass is a number, but for the port, which has an option of its own."""
    names = (field.name for field in fields(held) if field.name != "port")
    return [name for name in names if type(getattr(held, name)) in (int, float)]


def _number(name: str, value: str, kind: type) -> Number:
    try:
        number: Number = kind(value)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise InvalidInput(f"{name} is {value[:80]!r}; give {what}") from None
    return number
