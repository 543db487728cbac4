"""`tartan health`: for probes that Kubernetes' own gRPC ones cannot be, as they speak no TLS."""

from __future__ import annotations

from cluster.client_health import health_of
from cluster.security.client import Access
from colbert_core.errors import Unavailable


def check_health(target: str, service: str, timeout_s: float, access: Access) -> str:
    """What a server says of a service.

    Args:
        service: such as tartan.v1.SearchService; "" for the server as a whole.

    Returns:
        "SERVING": only that comes back.

    Raises:
        Unavailable: it says anything else.
        Unavailable, DeadlineExceeded: it says nothing.
    """
    status = health_of(target, [service], access, timeout_s=timeout_s).get(service, "unknown")
    if status != "SERVING":
        raise Unavailable(
            f"{target} is {status}: it starts, drains, or a shard has no server; its log says which"
        )
    return status
