"""`tartan train generate`: queries for a corpus that has none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.progress import progress_for
from colbert_core.errors import InvalidInput

if TYPE_CHECKING:
    from cluster.train_generating import GenerateSettings
    from colbert_core.train.writers import Writer

Passages = Annotated[
    list[str], typer.Argument(metavar="CORPUS...", help="As `tartan index build` reads it.")
]
WriterModel = Annotated[
    str | None,
    typer.Option("--writer", metavar="MODEL", help="A causal language model: path or hub name."),
]
Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        metavar="URL",
        help="Or a service that speaks OpenAI's protocol: http://host:8000/v1. Its key is taken "
        "from TARTAN_LLM_API_KEY.",
    ),
]
EndpointModel = Annotated[
    str | None, typer.Option("--endpoint-model", metavar="NAME", help="What it calls the model.")
]
Templates = Annotated[
    list[str] | None,
    typer.Option(
        "--template",
        help="question, keywords, problem, detail, claim, or a file with {passage} in it, and "
        "{examples} before it; once for each. By default all five.",
    ),
]
Examples = Annotated[
    Path | None,
    typer.Option("--examples", metavar="FILE", help="JSON lines of `query` and `passage`: a few."),
]
SampleSize = Annotated[
    int, typer.Option("--passages", help="How many get a query of each template; 0: all.")
]
Top = Annotated[
    int,
    typer.Option(
        "--top", help="Keep a query whose passage is among its best so many; 0: keep all."
    ),
]
FilterIndex = Annotated[
    str | None,
    typer.Option("--index", metavar="INDEX", help="An index of the corpus finds the best."),
]
FilterBm25 = Annotated[
    bool | None,
    typer.Option(
        "--bm25/--no-bm25",
        help="BM25 does; with both, either may find it.  [default: where there is no --index]",
    ),
]
Stemmer = Annotated[
    str, typer.Option("--stemmer", help="BM25's: a language, such as `german`, or `none`.")
]
Temperature = Annotated[
    float, typer.Option("--temperature", help="Of the language model; 0: the likeliest words.")
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", help="Of a query.")]
AtOnce = Annotated[
    int,
    typer.Option("--batch", help="Prompts at a time: of a --writer together, up to 32, or calls."),
]


def generate_command(
    corpus: Passages,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A folder of its own.")],
    writer: WriterModel = None,
    endpoint: Endpoint = None,
    endpoint_model: EndpointModel = None,
    template: Templates = None,
    examples: Examples = None,
    passages: SampleSize = 1000,
    top: Top = 20,
    index: FilterIndex = None,
    bm25: FilterBm25 = None,
    language: Stemmer = "english",
    temperature: Temperature = 0.7,
    max_tokens: MaxTokens = 48,
    batch: AtOnce = 8,
    seed: Annotated[int, typer.Option("--seed", help="Of the sample and the answers.")] = 0,
) -> None:
    """Let a language model write queries for passages of a corpus, one set for each template.

    Killed at any moment, the same command goes on where it stopped; with other settings it refuses.

    Example: `tartan train generate corpus.jsonl --writer MODEL --examples few.jsonl --out made`
    """
    from cluster.train_generating import generate
    from colbert_core.train.templates import TEMPLATES, find_templates, read_examples

    settings = make_settings(passages, top, index, bm25, language, seed)
    settings.check()
    shown = read_examples(examples) if examples else []
    templates = find_templates(template or list(TEMPLATES), shown)
    sets = generate(
        corpus,
        out,
        writer=make_writer(writer, endpoint, endpoint_model, temperature, max_tokens, batch),
        templates=templates,
        settings=settings,
        progress=progress_for(),
    )
    for one in sets:
        print(f"{one.name}: {one.kept:,} queries kept of {one.written:,} answers: {one.queries}")
    print(
        f"next: tartan train mine {sets[0].qrels} --queries {sets[0].queries} "
        f"--corpus {corpus[0]} --bm25 --out mined.jsonl"
    )


def make_settings(
    passages: int, top: int, index: str | None, bm25: bool | None, language: str, seed: int
) -> GenerateSettings:
    """What the options ask for: BM25 filters where no index does, and `none` stems nothing."""
    from cluster.train_generating import GenerateSettings

    return GenerateSettings(
        passages=passages,
        top=top,
        index=index,
        bm25=index is None if bm25 is None else bm25,
        language=None if language == "none" else language,
        seed=seed,
    )


def make_writer(
    model: str | None,
    endpoint: str | None,
    endpoint_model: str | None,
    temperature: float,
    max_tokens: int,
    batch: int,
) -> Writer:
    """The language model that the options name.

    Raises:
        InvalidInput: they name none, or two.
        ModelError: it cannot be loaded.
    """
    from colbert_core.train.writers import LocalWriter, Sampling

    sampling = Sampling(temperature=temperature, max_tokens=max_tokens)
    if (model is None) == (endpoint is None):
        raise InvalidInput(
            "who writes the queries? Give --writer MODEL or --endpoint URL, not both"
        )
    if (endpoint is None) != (endpoint_model is None):
        raise InvalidInput("--endpoint and --endpoint-model belong together: give both, or neither")
    if model is not None:
        return LocalWriter.load(model, sampling, batch)
    from colbert_core.train.endpoint import EndpointWriter

    assert endpoint is not None
    assert endpoint_model is not None
    return EndpointWriter(endpoint, endpoint_model, sampling, calls=batch)
