"""The command that hands a trained model on: `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rim_bench.cli.common import echo, with_options
from rim_bench.evaluate.options import StoredRunOptions
from rim_bench.util.errors import UsageError
from rim_bench.util.flags import Flag


@with_options(
    "run folder adapter effort max_tokens out method_files task_files trust",
    out=Flag("The results folder.", "--out", "-o"),
)
def export(
    run: Annotated[str, typer.Argument(help="A trained run: its id, its folder, or what it is, as rim:seed=0.")],
    folder: Annotated[Path, typer.Argument(help="A folder that is not there yet.")],
    options: StoredRunOptions,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Of a LoRA run: the adapter for peft, not merged into its base.")
    ] = False,
) -> None:
    """A trained run as a folder that plain transformers loads, with a model card; latent slots add a short program."""
    if folder.exists():
        raise UsageError(f"{str(folder)!r} is there already: give a folder that is not")
    options.allow()
    from rim_bench.runs.export import export_run
    from rim_bench.storage.run_folder import Store

    stored = Store(options.out).find(run)
    lines = export_run(stored, folder, adapter=adapter, effort=options.effort, max_tokens=options.max_tokens)
    echo("\n".join(lines))
