"""The `tartan` command: what each subcommand takes. What it does is in the module that it calls.

Heavy imports stand inside the functions, so that `tartan --help` answers at once.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cluster.cli_index_app import index_app
from cluster.cli_key import key_app
from cluster.cli_options import (
    ApiKeys,
    Candidates,
    Filter,
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
    Nprobe,
    Recall,
    Scored,
    SearchedIndex,
    Settings,
    SlowQueryMs,
    Target,
    TlsCert,
    TlsClientCa,
    TlsKey,
)
from cluster.cli_rollout_app import COMMANDS
from cluster.cli_train import train_app
from colbert_core.errors import TartanError
from colbert_core.storage import location

app = typer.Typer(
    name="tartan",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Search text by late interaction: build a compressed ColBERTv2 index, serve and ask it."
    "\n\n"
    "First steps: `tartan demo`, or `tartan index build corpus.jsonl --out INDEX` and then "
    '`tartan search "your question" --index INDEX`.',
)
app.add_typer(index_app, name="index")
app.add_typer(key_app, name="key")
app.add_typer(train_app, name="train")
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


@app.command("serve")
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
    from cluster.security.tls import server_tls
    from cluster.serve import serve
    from cluster.telemetry.endpoint import MetricsAddress
    from cluster.telemetry.process import TelemetryConfig

    tls = server_tls(tls_cert, tls_key, tls_client_ca)
    metrics = None if metrics_port is None else MetricsAddress(metrics_port, metrics_host, tls)
    code = serve(
        index,
        host,
        port,
        replicas,
        gateways=gateways,
        min_replicas=min_replicas,
        max_replicas=max_replicas,
        max_gateways=max_gateways,
        follow=follow,
        name=name,
        device=device,
        start_timeout_s=start_timeout_s,
        settings=settings or (),
        telemetry=TelemetryConfig(metrics, log_format, slow_query_ms, log_queries),
        tls=tls,
        api_keys=api_keys,
        insecure=insecure,
    )
    raise typer.Exit(code)


@app.command("search")
def search_command(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    target: Target = None,
    index: SearchedIndex = None,
    k: Annotated[int, typer.Option("-k", help="Hits.")] = 10,
    recall: Recall = None,
    nprobe: Nprobe = None,
    candidates: Candidates = None,
    scored: Scored = None,
    exact: Annotated[bool, typer.Option("--exact", help="Score every passage.")] = False,
    filter: Filter = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what each query token matched.")
    ] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds.")] = 30.0,
    device: Annotated[
        str, typer.Option("--device", help="With --index: cpu, cuda, or one GPU, such as cuda:1.")
    ] = "cpu",
    as_json: Json = False,
) -> None:
    """Search a running gateway (default: 127.0.0.1:50051), or an index in this process.

    Examples: `tartan search "how do I merge sorted iterables" --index INDEX -k 5 --explain`,
    `tartan search "parsing" --index INDEX --filter 'year >= 2019 and not venue = "workshop"'`
    """
    from cluster.cli_search import Ask, search

    search(
        Ask(query, k, recall, nprobe, candidates, scored, exact, explain, timeout_s, filter),
        target=target,
        index=location(index) if index else None,
        device=device,
        as_json=as_json,
    )


@app.command("health")
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


@app.command("eval")
def eval_command(
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="Folder in BEIR's layout.")],
    target: Target = None,
    index: SearchedIndex = None,
    split: Annotated[str, typer.Option("--split", help="qrels/<split>.tsv")] = "test",
    recall: Recall = None,
    nprobe: Nprobe = None,
    candidates: Candidates = None,
    scored: Scored = None,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Also overlap with exhaustive search of the same index."),
    ] = False,
    uncompressed: Annotated[
        bool,
        typer.Option(
            "--uncompressed",
            help="Also exact search over vectors encoded afresh: its measures, and overlap.",
        ),
    ] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", help="Only the first so many queries.")
    ] = None,
    filter: Filter = None,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare",
            metavar="MODEL",
            help="Instead of an index: set a trained model, at each compression, beside BM25 and "
            "a bi-encoder.",
        ),
    ] = None,
    before: Annotated[
        str | None, typer.Option("--before", help="With --compare: the model before training.")
    ] = None,
    bi_encoder: Annotated[
        str, typer.Option("--bi-encoder", help="With --compare: mean-pooled, one vector a passage.")
    ] = "minilm-untrained",
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", help="With --compare: a cross-encoder over the best hundred."),
    ] = None,
    language: Annotated[
        str, typer.Option("--language", help="With --compare: BM25's stemmer, or `none`.")
    ] = "english",
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="With --compare: .png or .svg.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure quality and latency on a collection with relevance judgements."""
    if compare is not None:
        from cluster.cli_train_compare import Comparison, compare_command

        what = Comparison(
            data=data,
            split=split,
            model=compare,
            before=before,
            bi_encoder=bi_encoder,
            teacher=teacher,
            language=None if language == "none" else language,
            limit=limit,
        )
        compare_command(what, plot=plot, as_json=as_json)
        return
    from cluster.cli_eval import evaluate_command

    evaluate_command(
        data,
        split,
        target=target,
        index=location(index) if index else None,
        knobs={"recall": recall, "nprobe": nprobe, "candidates": candidates, "scored": scored},
        only=filter,
        exact=exact,
        uncompressed=uncompressed,
        limit=limit,
        as_json=as_json,
    )


@app.command("plan")
def plan_command(
    passages: Annotated[float, typer.Option("--passages", help="How many; 140e6 works too.")],
    tokens_per_passage: Annotated[
        float, typer.Option("--tokens-per-passage", help="Stored vectors of one, on average.")
    ],
    bits: Annotated[int, typer.Option("--bits", help="Residual bits.")] = 2,
    target_qps: Annotated[float, typer.Option("--target-qps", help="Queries a second.")] = 10.0,
    dim: Annotated[int, typer.Option("--dim", help="Dimensions of a vector.")] = 128,
    query_tokens: Annotated[int, typer.Option("--query-tokens", help="Of a query.")] = 16,
    replicas: Annotated[int, typer.Option("--replicas", help="Of each shard.")] = 1,
    centroids: Annotated[
        int | None, typer.Option("--centroids", help="By default 2^⌊log2(16·√tokens)⌋.")
    ] = None,
    text_bytes: Annotated[
        float | None, typer.Option("--text-bytes", help="Of a passage; by default 5 a token.")
    ] = None,
    machine_memory: Annotated[
        float, typer.Option("--machine-memory", help="GiB of a serving machine.")
    ] = 64.0,
    machine_cores: Annotated[
        int, typer.Option("--machine-cores", help="Cores of a serving machine.")
    ] = 16,
    index_cores: Annotated[
        int, typer.Option("--index-cores", help="Cores that the index job has, of all machines.")
    ] = 64,
    encode_rate: Annotated[
        float,
        typer.Option(
            "--encode-rate",
            help="Tokens that a core (or GPU) encodes a second; the default was measured with "
            "all-MiniLM-L6-v2 on one core. Measure your model.",
        ),
    ] = 11_400.0,
    as_json: Json = False,
) -> None:
    """Say what a corpus takes before it is indexed: bytes, shards, memory, machines, hours.

    Every figure is printed with its formula; docs/capacity.md says how well they fit.

    Example: `tartan plan --passages 140e6 --tokens-per-passage 60 --bits 2 --target-qps 100`
    """
    from cluster.capacity import GIB, Workload
    from cluster.cli_plan import plan_command as print_plan

    work = Workload(
        passages=int(passages),
        tokens_per_passage=tokens_per_passage,
        bits=bits,
        target_qps=target_qps,
        dim=dim,
        query_tokens=query_tokens,
        replicas=replicas,
        centroids=centroids,
        text_bytes=text_bytes,
        machine_memory=int(machine_memory * GIB),
        machine_cores=machine_cores,
        index_cores=index_cores,
        encode_rate=encode_rate,
    )
    print_plan(work, as_json=as_json)


@app.command("status")
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


@app.command("doctor")
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


@app.command("demo")
def demo_command(
    keep: Annotated[bool, typer.Option("--keep", help="Stay up until Ctrl-C.")] = False,
    out: Annotated[
        Path, typer.Option("--out", metavar="INDEX", help="Where the demo's index goes.")
    ] = Path("demo-index"),
    model: Annotated[str, typer.Option("--model", help="Path, hub name or alias.")] = (
        "minilm-untrained"
    ),
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.")] = 0,
) -> None:
    """Index the documentation of Python's standard library, serve it, and ask it questions."""
    from cluster.demo import demo

    raise typer.Exit(demo(out, model=model, port=port, keep=keep))


def main() -> None:
    """Run the command line; an expected error is one line on stderr and an exit code of its own."""
    signal.signal(signal.SIGTERM, _end)
    try:
        app()
    except TartanError as error:
        print(f"tartan: {error}{_noted(error)}", file=sys.stderr)
        sys.exit(error.exit_code)
    except TimeoutError as error:
        print(f"tartan: {error}", file=sys.stderr)
        sys.exit(8)
    except KeyboardInterrupt:
        print("tartan: interrupted", file=sys.stderr)
        sys.exit(130)
    except SystemExit as stop:
        if stop.code == signal.SIGTERM:  # _end, or the handler that Ray puts in its place
            print("tartan: terminated", file=sys.stderr)
            sys.exit(143)
        raise


def _noted(error: TartanError) -> str:
    """Which request it was, for whoever reads the server's log."""
    notes = getattr(error, "__notes__", ())
    return f" [{', '.join(notes)}]" if notes else ""


def _end(number: int, _frame: object) -> NoReturn:
    """Leave every block on the way out, so that temporary folders and half an index are removed."""
    raise SystemExit(number)


if __name__ == "__main__":
    main()
