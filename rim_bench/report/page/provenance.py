"""Where the runs of a report come from: ids, hashes, commits, versions, and the commands that make them again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from rim_bench.evidence.rows import Group
from rim_bench.report.page.records import RunFacts
from rim_bench.storage.run_folder import Run
from rim_bench.util.files import Record


def run_facts(group: Group, runs: Mapping[str, Run]) -> Iterator[RunFacts]:
    """The runs of a group; `runs` by id."""
    for number, row in enumerate(group.rows):
        for part in row.parts:
            environment = runs[part.run].read("environment.json") or {}
            yield RunFacts(
                part.run,
                number,
                part.seed,
                part.sealed,
                str(part.spec.task.train_sha256 or ""),
                part.commits,
                str(part.spec.numerics),
                str(environment.get("date") or ""),
                _machine(environment),
                ", ".join(f"{name} {version}" for name, version in _object(environment, "packages").items()),
                _command(environment.get("argv")),
                part.key,
                json.dumps(part.spec.to_json(), indent=1, ensure_ascii=False, sort_keys=True),
            )


def _object(record: Record, key: str) -> Record:
    value = record.get(key)
    return value if isinstance(value, dict) else {}


def _machine(environment: Record) -> str:
    """Processor or GPU, platform and Python."""
    cpu, gpu = _object(environment, "cpu"), _object(environment, "gpu")
    named = gpu.get("name") or (f"{cpu['model']}, {cpu.get('cores')} cores" if cpu.get("model") else "")
    python = f"Python {environment['python']}" if environment.get("python") else ""
    return ", ".join(filter(None, (str(named), str(environment.get("platform") or ""), python)))


def _command(argv: Any) -> str:
    """The command line as a shell takes it; empty where it was started from Python."""
    return shlex.join(map(str, argv)) if isinstance(argv, list) and argv else ""
