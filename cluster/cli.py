"""The `tartan` command. What its subcommands take is here and in `cli_*_app.py`; what they do is in
the modules that they call.

Heavy imports stand inside the functions, so that `tartan --help` answers at once.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cluster import cli_rollout_app, cli_search_app, cli_serve_app
from cluster.cli_index_app import index_app
from cluster.cli_key import key_app
from cluster.cli_options import Json
from cluster.cli_train import train_app
from colbert_core.errors import TartanError
from colbert_core.text.aliases import DEFAULT_MODEL

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
for commands in (cli_search_app, cli_serve_app, cli_rollout_app):
    commands.register(app)


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


@app.command("demo")
def demo_command(
    keep: Annotated[bool, typer.Option("--keep", help="Stay up until Ctrl-C.")] = False,
    out: Annotated[
        Path, typer.Option("--out", metavar="INDEX", help="Where the demo's index goes.")
    ] = Path("demo-index"),
    model: Annotated[str, typer.Option("--model", help="Path, hub name or alias.")] = DEFAULT_MODEL,
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
