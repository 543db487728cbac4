"""What the commands of an operator take: `tartan rollout`, `tartan scale`, `tartan drain`."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.cli_options import Json, MaxGateways, MaxReplicas, MinReplicas, Target


def register(app: typer.Typer) -> None:
    """Add the commands to `tartan`."""
    app.command("rollout")(rollout_command)
    app.command("scale")(scale_command)
    app.command("drain")(drain_command)


def rollout_command(
    place: Annotated[
        str,
        typer.Argument(
            metavar="INDEX[@GENERATION]",
            help="What to serve; without a generation, the one that is live on disk.",
        ),
    ],
    target: Target = None,
    replicas: Annotated[
        int | None, typer.Option("--replicas", help="For each shard; by default as many as now.")
    ] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", help="Seconds to load and warm; then it is rolled back.")
    ] = 600.0,
    as_json: Json = False,
) -> None:
    """Change what a running service serves, without losing a query; progress is a line for a step.

    New shard servers load and check the generation beside the old, all gateways warm it, then new
    queries go to it, and the old servers finish and end. What goes wrong before that is rolled
    back, with exit code 9. Of the generation that is served already: `--replicas` changes their
    number; without it all servers are started anew one after another (new software).
    """
    from cluster.cli_rollout import rollout_command as roll_out

    roll_out(place, target, replicas, timeout_s, as_json=as_json)


def scale_command(
    target: Target = None,
    replicas: Annotated[
        int | None, typer.Option("--replicas", help="Shard servers for each shard.")
    ] = None,
    gateways: Annotated[int | None, typer.Option("--gateways", help="All of them.")] = None,
    min_replicas: MinReplicas = None,
    max_replicas: MaxReplicas = None,
    min_gateways: Annotated[
        int | None, typer.Option("--min-gateways", help="Not fewer, however idle.")
    ] = None,
    max_gateways: MaxGateways = None,
    as_json: Json = False,
) -> None:
    """Change how many replicas and gateways a running service has, or between which bounds."""
    from cluster.cli_rollout import scale_command as scale
    from cluster.wire.admin import ScaleChange

    change = ScaleChange(replicas, gateways, min_replicas, max_replicas, min_gateways, max_gateways)
    scale(change, target, as_json=as_json)


def drain_command(
    target: Target = None,
    replica: Annotated[str, typer.Option("--replica", help="Its id.")] = "",
    gateway: Annotated[str, typer.Option("--gateway", help="Its id.")] = "",
    node: Annotated[
        str, typer.Option("--node", help="Ray's id of a node: everything that runs there.")
    ] = "",
) -> None:
    """Take a shard server, a gateway or a node out of service without losing a query."""
    from cluster.cli_rollout import drain_command as drain

    drain(replica, gateway, node, target)
