"""`tartan serve`, and what looks at a service: `status`, `health`, `doctor`. What each takes; heavy
imports stand inside the functions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli_options import (
    ApiKeys,
    IndexPlace,
    Insecure,
    Json,
    LogFormat,
    LogQueries,
    MaxGateways,
    MaxReplicas,
    MetricsHost,
    MetricsPort,
    MinReplicas,
    Settings,
    SlowQueryMs,
    Target,
    TlsCert,
    TlsClientCa,
    TlsKey,
)
from colbert_core.storage import location


def register(app: typer.Typer) -> None:
    """Add the commands to `tartan`."""
    app.command("serve")(serve_command)
    app.command("status")(status_command)
    app.command("health")(health_command)
    app.command("doctor")(doctor_command)


def serve_command(
    index: IndexPlace,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.")] = 50051,
    replicas: Annotated[int, typer.Option("--replicas", help="Shard servers for each shard.")] = 1,
    gateways: Annotated[
        int, typer.Option("--gateways", help="The others listen on the ports after --port.")
    ] = 1,
    min_replicas: MinReplicas = None,
    max_replicas: MaxReplicas = None,
    max_gateways: MaxGateways = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Roll out what becomes live on disk, by itself.")
    ] = False,
    name: Annotated[
        str, typer.Option("--name", help="Of the service; by default the index's last part.")
    ] = "",
    device: Annotated[
        str, typer.Option("--device", help="Where shards are searched: cpu, or cuda for GPUs.")
    ] = "cpu",
    start_timeout_s: Annotated[
        float, typer.Option("--start-timeout", help="Seconds for all servers to come up.")
    ] = 120.0,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_client_ca: TlsClientCa = None,
    api_keys: ApiKeys = None,
    insecure: Insecure = False,
    settings: Settings = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
    log_format: LogFormat = "text",
    slow_query_ms: SlowQueryMs = 1000.0,
    log_queries: LogQueries = False,
) -> None:
    """Serve an index over gRPC until SIGTERM or Ctrl-C.

    Prints one line when it is ready to answer. `tartan rollout` changes what is served without a
    pause. With bounds, replicas and gateways follow the load between them. Listening beyond
    loopback needs TLS and authentication, or `--insecure`. The files are read again when they
    change.
    """
    from cluster.gateway import GatewayConfig
    from cluster.gateway_limits import DEFAULT_LIMITS
    from cluster.gateway_settings import with_settings
    from cluster.security.tls import server_tls
    from cluster.serve import serve
    from cluster.serve_config import ServeConfig, scale_within
    from cluster.telemetry.endpoint import MetricsAddress
    from cluster.telemetry.process import TelemetryConfig

    place = location(index)
    tls = server_tls(tls_cert, tls_key, tls_client_ca)
    metrics = None if metrics_port is None else MetricsAddress(metrics_port, metrics_host, tls)
    gateway = GatewayConfig(host=host, port=port, tls=tls, api_keys=api_keys)
    gateway, limits = with_settings(settings or (), gateway, DEFAULT_LIMITS)
    config = ServeConfig(
        place.resolve() if isinstance(place, Path) else place,
        gateway,
        name=name,
        scale=scale_within(replicas, gateways, min_replicas, max_replicas, max_gateways),
        follow=follow,
        limits=limits,
        telemetry=TelemetryConfig(metrics, log_format, slow_query_ms, log_queries),
        device=device,
        start_timeout_s=start_timeout_s,
        insecure=insecure,
    )
    raise typer.Exit(serve(config))


def status_command(
    target: Target = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Again every two seconds, until Ctrl-C.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a running service: generations, gateways, shards, replicas, lag and load.

    Needs a key with the role admin, or loopback. Ends with 1 where a shard has no replica that
    answers.
    """
    from cluster.cli_status import status_command as show_status

    raise typer.Exit(show_status(target, watch=watch, as_json=as_json))


def health_command(
    target: Annotated[
        str, typer.Option("--target", metavar="HOST:PORT", help="A gateway; TLS as for search.")
    ] = "127.0.0.1:50051",
    service: Annotated[
        str, typer.Option("--service", help="By default the server as a whole.")
    ] = "",
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds.")] = 2.0,
) -> None:
    """Say whether a gateway is serving: exit code 0, or 7 or 8. For probes; needs no key."""
    from cluster.cli_health import check_health
    from cluster.security.client import access_from_environment

    print(check_health(target, service, timeout_s, access_from_environment()))


def doctor_command(
    index: Annotated[
        str | None, typer.Argument(metavar="[INDEX]", help="An index to check, folder or URI.")
    ] = None,
    target: Target = None,
    host: Annotated[
        str, typer.Option("--host", help="What `tartan serve` would listen on.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="The same.")] = 50051,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_client_ca: TlsClientCa = None,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds for each call.")] = 5.0,
    as_json: Json = False,
) -> None:
    """Check this machine, an index, certificates and a gateway, and say what to do.

    Ends with 1 where a check failed; warnings end with 0.

    Example: `tartan doctor notes.tartan --target localhost:50051`
    """
    from cluster.cli_doctor import doctor_command as run_doctor
    from cluster.doctor.examine import Patient
    from cluster.security.tls import server_tls

    place = location(index) if index else None
    tls = server_tls(tls_cert, tls_key, tls_client_ca)
    patient = Patient(place, target, host, port, tls, timeout_s)
    raise typer.Exit(run_doctor(patient, as_json=as_json))
