"""A stored run handed on: the model of `rim-bench export`, whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from rim_bench.data.task import task_of
from rim_bench.engine.export import PROBE, TEMPLATE, Exported, export_model
from rim_bench.engine.trained_model import load_trained
from rim_bench.evaluate.options import usual_tokens
from rim_bench.report.model_card import card, hub_results
from rim_bench.storage.run_folder import Run
from rim_bench.util.errors import UsageError, cannot_apply
from rim_bench.util.files import MANIFEST, complete_folder


def export_run(
    run: Run, folder: Path, *, adapter: bool = False, effort: int | None = None, max_tokens: int | None = None
) -> list[str]:
    """Writes the folder; returns what there is to say of it.

    Args:
        adapter: of a LoRA run, its adapter as it is; else the weights are merged.

    Raises:
        UsageError: a run without weights, an adapter of a run without one, or a method that cannot be exported.
    """
    if run.spec.untrained:
        raise UsageError(
            f"{run.id} trained nothing: its model is the backbone {run.spec.backbone.name!r} as it is, and there is "
            "nothing to export"
        )
    lora = run.spec.backbone.tuning == "lora"
    if adapter and not lora:
        raise cannot_apply("--adapter", f"{run.id} trained all of its weights and has no adapter")
    if adapter and (effort is not None or max_tokens is not None):
        raise cannot_apply("--effort and --max-tokens", "an adapter says nothing of how it is asked")
    if adapter:
        model = run.model_path()
        with complete_folder(folder) as part:
            for path in sorted(p for p in model.iterdir() if p.is_file() and p.name != MANIFEST):
                shutil.copyfile(path, part / path.name)
        (folder / MANIFEST).unlink()
        return [f"{folder}: the adapter of {run.id}; its README.md has the call that loads it in plain peft"]
    trained = load_trained(run)
    task = task_of(run.spec.task.name, run.task_file)
    tokens = max_tokens or usual_tokens(task, trained.method)
    with complete_folder(folder) as part:
        exported = export_model(trained, part, max_tokens=tokens, effort=effort)
        (part / "README.md").write_text(card(run, exported.text, exported.latent, PROBE), "utf-8")
        for name, text in hub_results(run).items():
            (part / name).parent.mkdir(exist_ok=True)
            (part / name).write_text(text, "utf-8")
    (folder / MANIFEST).unlink()
    return [f"{folder}: {run.id}, {'merged with its base' if lora else 'all of its weights'}", _how(exported)]


def _how(exported: Exported) -> str:
    if exported.latent:
        return (
            f"its {exported.latent} latent slots need passes that transformers' generate has not: generate.py in the "
            "folder makes them, read it first"
        )
    return f"transformers' generate answers its chat template ({TEMPLATE}) as the run does"
