"""Arguments and options that several commands of `tartan` take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from colbert_core.errors import InvalidInput
from colbert_core.storage import location


def _local(text: str) -> Path:
    place = location(text)
    if not isinstance(place, Path):
        raise InvalidInput(f"{text}: this command works on local indexes; give a folder")
    return place


IndexPath = Annotated[
    Path, typer.Argument(metavar="INDEX", help="Folder of the index.", parser=_local)
]
IndexPlace = Annotated[
    str, typer.Argument(metavar="INDEX", help="Folder of the index, or its URI (s3://, gs://).")
]
MinReplicas = Annotated[
    int | None,
    typer.Option("--min-replicas", help="Of each shard, however idle; by default --replicas."),
]
MaxReplicas = Annotated[
    int | None,
    typer.Option("--max-replicas", help="Of each shard, however busy; by default --replicas."),
]
MaxGateways = Annotated[
    int | None,
    typer.Option("--max-gateways", help="However busy; by default --gateways."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="HOST:PORT",
        help="A gateway. Its API key is taken from TARTAN_API_KEY; TLS from TARTAN_TLS=1, or "
        "TARTAN_TLS_CA, TARTAN_TLS_CERT and TARTAN_TLS_KEY (PEM files).",
    ),
]
SearchedIndex = Annotated[
    str | None,
    typer.Option("--index", metavar="INDEX", help="An index (folder or URI), searched in-process."),
]
Recall = Annotated[
    float | None,
    typer.Option("--recall", help="Share of the exact top k to find (default 0.99; 1: exact)."),
]
Nprobe = Annotated[int | None, typer.Option("--nprobe", help="Centroids per query token.")]
Candidates = Annotated[
    int | None, typer.Option("--candidates", help="Passages compared by centroids, per shard.")
]
Scored = Annotated[
    int | None,
    typer.Option("--scored", help="Of these, scored precisely; 0: centroids alone rank."),
]

Filter = Annotated[
    str | None,
    typer.Option(
        "--filter",
        metavar="EXPR",
        help="Search only where the metadata fits: `year >= 2019 and lang in ('de', 'en')`, "
        "`not exists(retracted)`, `title prefix 'Graph'`, `_id in ('a', 'b')`. "
        "`tartan index inspect` lists the fields.",
    ),
]

TlsCert = Annotated[
    Path | None,
    typer.Option("--tls-cert", metavar="FILE", help="Certificate and those above it, as PEM."),
]
TlsKey = Annotated[
    Path | None, typer.Option("--tls-key", metavar="FILE", help="Its private key, as PEM.")
]
TlsClientCa = Annotated[
    Path | None,
    typer.Option(
        "--tls-client-ca",
        metavar="FILE",
        help="Ask clients for a certificate that one of these has signed (mTLS).",
    ),
]
ApiKeys = Annotated[
    Path | None,
    typer.Option(
        "--api-keys", metavar="FILE", help="Let in these keys only; `tartan key new` makes them."
    ),
]
Insecure = Annotated[
    bool,
    typer.Option("--insecure", help="Listen beyond loopback without TLS or authentication."),
]

MetricsPort = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        help="Show Prometheus metrics at /metrics here; 0 takes a free one. By default nowhere, "
        "but for Ray's own endpoint.",
    ),
]
MetricsHost = Annotated[
    str, typer.Option("--metrics-host", help="Where metrics are listened for, if at all.")
]
LogFormat = Annotated[str, typer.Option("--log-format", help="text, or json: one object a line.")]
LogQueries = Annotated[bool, typer.Option("--log-queries", help="Log every query, with its text.")]
SlowQueryMs = Annotated[
    float, typer.Option("--slow-query-ms", help="Log queries that take longer, without texts.")
]

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A limit, or how the gateway caches, admits or hedges; may be given several times.",
    ),
]
