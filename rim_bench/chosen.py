"""What was chosen on validation before the test questions were seen, checkpoints and learning rates, as parts of tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rim_bench import cells
from rim_bench.compare import Evaluated, Row
from rim_bench.files import Record
from rim_bench.render import Grid

COLUMNS = ("checkpoint", "chosen_step", "tuning_flops", "tuning_rate")  # of a CSV, where any of its rows has one


def tuning_of(e: Evaluated) -> Record | None:
    """The trials of a run's learning rate as train.json has them; None where it was not tuned by trials of this program."""
    found = e.training.get("tuning")
    return found if isinstance(found, dict) else None


def tuning_flops(row: Row) -> int | None:
    """Training FLOPs of all trials behind a row, each once whatever the number of its seeds; None without any."""
    trials = {str(t["run"]): int(t["flops"]) for p in row.parts if (told := tuning_of(p)) for t in told["trials"]}
    return sum(trials.values()) if trials else None


def tuning_grid(rows: Sequence[Row]) -> Grid | None:
    """Every trial of every tuned row, with what all of them cost beside the runs' own training."""
    lines = []
    for row in rows:
        told = next((t for p in row.parts if (t := tuning_of(p))), None)
        if told is None:
            continue
        tried = ", ".join(f"{t['lr']:g}: {'diverged' if t['accuracy'] is None else cells.pct(t['accuracy'])}" for t in told["trials"])
        chosen = f"{told['chosen']:g}" + (" (edge of the grid)" if told["edge"] else "")
        lines.append((row.label, str(len(told["trials"])), chosen, cells.flops(tuning_flops(row)), f"{100 * told['share']:g} %", tried))
    if not lines:
        return None
    names = ("method", "trials", "learning rate chosen", "tuning FLOPs", "budget of a trial", "validation accuracy % by rate")
    return Grid("Tuning: trials chosen between on validation; their training FLOPs stand beside the runs' own", names, tuple(lines))


def notes(rows: Sequence[Row]) -> list[str]:
    """A sentence for each rule that something was chosen by."""
    out = []
    told = [t for r in rows for p in r.parts if (t := tuning_of(p))]
    if told:
        seeds = ", ".join(sorted({str(t["seed"]) for t in told}))
        text = f"Tuning: trials have seed {seeds}; of rates with the same validation accuracy {told[0]['ties']} is taken. Tuning FLOPs are "
        text += "those of all trials and in no training budget"
        if any(t["adopted"] for t in told):
            text += f"; the run of seed {seeds} is the winning trial itself, whose FLOPs stand in both"
        untuned = [r.label for r in rows if tuning_flops(r) is None]
        out.append(text + (f". Not tuned by trials: {', '.join(untuned)}." if untuned else "."))
    for row in rows:
        if (rule := _rule(row)) is not None:
            spec = row.first.spec["selection"]
            steps = "; ".join(_step(p) for p in row.parts)
            flops = sum((p.training.get("selection") or {}).get("flops") or 0 for p in row.parts)
            out.append(
                f"Checkpoint of {row.label}: {rule} of {spec['points']} on validation, of equal ones {spec['ties']}: {steps}. The looks "
                f"cost {cells.flops(flops)} FLOPs of inference, in no training budget."
            )
    return out


def _rule(row: Row) -> str | None:
    return (row.first.spec.get("selection") or {}).get("rule")


def _step(e: Evaluated) -> str:
    chosen = (e.training.get("selection") or {}).get("chosen") or {}
    step, steps = chosen.get("step"), e.training.get("steps")
    return f"step {cells.num(step, 0)} of {cells.num(steps, 0)} (seed {e.seed}, {cells.pct(chosen.get('accuracy'))} %)"


def measures(row: Row) -> Record:
    """For the CSV; nothing where nothing was chosen."""
    out: Record = {}
    if (rule := _rule(row)) is not None:
        steps = [str(((p.training.get("selection") or {}).get("chosen") or {}).get("step")) for p in row.parts]
        out |= {"checkpoint": rule, "chosen_step": " ".join(steps)}
    if (flops := tuning_flops(row)) is not None:
        rates = dict.fromkeys(f"{t['chosen']:g}" for p in row.parts if (t := tuning_of(p)))
        out |= {"tuning_flops": flops, "tuning_rate": " ".join(rates)}
    return out


def extra_columns(records: Iterable[Record], names: Sequence[str]) -> tuple[str, ...]:
    """Of these columns the ones that some record fills: a table of runs that chose nothing looks as it always did."""
    used = {k for r in records for k in r}
    return tuple(n for n in names if n in used)
