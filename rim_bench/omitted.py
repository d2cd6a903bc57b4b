"""What a run was to be evaluated on and was not, with the reason: `not_evaluated.json` in its folder, so that no table forgets it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rim_bench.errors import UsageError
from rim_bench.files import read_json, write_json_atomic
from rim_bench.store import Run

FILE = "not_evaluated.json"


def omitted(run: Run) -> dict[str, str]:
    """Set -> why the run was not evaluated on it. Raises UsageError where the file is damaged."""
    path = run.path / FILE
    if not path.is_file():
        return {}
    sets = read_json(path).get("sets")
    if not isinstance(sets, dict):
        raise UsageError(f"{str(path)!r} is damaged: it has no sets; delete it")
    return {str(name): str(reason) for name, reason in sets.items()}


def record_omitted(run: Run, missing: Mapping[str, str], evaluated: Iterable[str]) -> None:
    """Adds what is missing and takes out what has been evaluated since."""
    before = omitted(run)
    now = {k: v for k, v in {**before, **missing}.items() if k not in set(evaluated)}
    if now != before:
        write_json_atomic(run.path / FILE, {"schema": 1, "sets": now})


def omitted_lines(runs: Iterable[Run]) -> list[str]:
    """A line for each set and reason, with the number of runs it holds for; where files were looked for stands in the runs' own file."""
    found: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        try:
            for item in omitted(run).items():
                found.setdefault((item[0], item[1].partition(": looked for ")[0]), []).append(run.id)
        except UsageError as error:
            found.setdefault(("a list of omitted sets", str(error)), []).append(run.id)
    return [
        f"{name}: asked for and not evaluated for {ids[0] if len(ids) == 1 else f'{len(ids)} runs'}: {reason}"
        for (name, reason), ids in sorted(found.items())
    ]
