"""What `tartan serve` is told, checked before anything is started."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from cluster.autoscale import AutoscalePolicy
from cluster.controller.state import Scale
from cluster.controller.timing import Timing
from cluster.gateway import GatewayConfig, guard_of
from cluster.gateway_limits import DEFAULT_LIMITS, check_limits
from cluster.security.exposure import check_exposure
from cluster.security.tls import server_credentials
from cluster.telemetry.process import TelemetryConfig
from cluster.wire.types import Limits
from colbert_core.errors import InvalidInput
from colbert_core.storage import Location


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """What `tartan serve` runs.

    Attributes:
        index: path of the index, on a Ray cluster one that every node can read; or its URI, of
            which each shard server fetches its own shard.
        gateway: the first gateway, in the process of `tartan serve`. Further ones, processes of
            their own, listen on the ports after it (or on the same port of other machines).
        name: of the service on its Ray cluster; by default the last part of the index's path.
        scale: replicas of each shard and gateways, and the bounds that they may follow the load in.
        policy: how replicas and gateways follow the load.
        timing: of the controller.
        follow: whether what becomes live on disk is rolled out by itself.
        limits: what requests are held to.
        telemetry: metrics, logs and traces.
        device: where shard servers search: "cpu", or "cuda" for the GPUs that Ray has
            ("torch:cpu", the same kernels without a GPU, is for testing).
        shard_cpus: CPUs that Ray reserves for each shard server and further gateway; by default 0
            on a Ray of our own and 1 on a cluster.
        start_timeout_s: for the shard servers to come up, and again for the warm-up query.
        grace_s: for queries under way when told to stop.
        notice_s: that a gateway says NOT_SERVING, and still answers, before it stops.
        insecure: whether to listen beyond loopback without TLS or authentication.
    """

    index: Location
    gateway: GatewayConfig = field(default_factory=GatewayConfig)
    name: str = ""
    scale: Scale = field(default_factory=Scale)
    policy: AutoscalePolicy = field(default_factory=AutoscalePolicy)
    timing: Timing = field(default_factory=Timing)
    follow: bool = False
    limits: Limits = DEFAULT_LIMITS
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    device: str = "cpu"
    shard_cpus: float | None = None
    start_timeout_s: float = 120.0
    grace_s: float = 5.0
    notice_s: float = 0.5
    insecure: bool = False

    @property
    def service(self) -> str:
        """The name on the Ray cluster."""
        last = str(self.index).rstrip("/").rpartition("/")[2]
        return self.name or re.sub(r"[^A-Za-z0-9._-]", "-", last) or "index"

    def check(self) -> None:
        """Raise InvalidInput where a value is not possible."""
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", self.service):
            raise InvalidInput(
                f"name is {self.name!r}; give 1 to 100 letters, digits, dots, _ and -"
            )
        if self.device not in ("cpu", "cuda", "torch:cpu"):
            raise InvalidInput(
                f"device is {self.device!r}; give cpu or cuda (Ray says which GPU is whose)"
            )
        self._check_scale()
        self.gateway.check()
        for name in ("start_timeout_s", "grace_s"):
            if not getattr(self, name) > 0:
                raise InvalidInput(f"{name} is {getattr(self, name)}; give more than 0 seconds")
        check_limits(self.limits)
        self.telemetry.check()
        check_exposure(
            self.gateway.host,
            tls=self.gateway.tls is not None,
            authentication=self.gateway.authenticates,
            insecure=self.insecure,
        )
        guard_of(self.gateway)  # files that are not usable are errors before anything starts
        if self.gateway.tls is not None:
            server_credentials(self.gateway.tls)

    def _check_scale(self) -> None:
        scale = self.scale
        for kind in ("replicas", "gateways"):
            number = getattr(scale, kind)
            low, high = getattr(scale, f"min_{kind}"), getattr(scale, f"max_{kind}")
            if number < 1:
                raise InvalidInput(f"{kind} is {number}; give 1 or more")
            if not 1 <= low <= number <= high:
                raise InvalidInput(
                    f"{kind} is {number}, min_{kind} {low} and max_{kind} {high}; give them so "
                    f"that 1 ≤ min_{kind} ≤ {kind} ≤ max_{kind}"
                )


def scale_within(
    replicas: int,
    gateways: int,
    min_replicas: int | None,
    max_replicas: int | None,
    max_gateways: int | None,
) -> Scale:
    """The scale that a service begins with. What has no bounds does not follow the load."""
    return Scale(
        replicas=replicas,
        min_replicas=replicas if min_replicas is None else min_replicas,
        max_replicas=replicas if max_replicas is None else max_replicas,
        gateways=gateways,
        min_gateways=gateways,
        max_gateways=gateways if max_gateways is None else max_gateways,
    )
