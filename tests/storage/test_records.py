"""Records read and written again have the same bytes, and are what their files say."""

from __future__ import annotations

import ast
import dataclasses
import gzip
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rim_bench.storage.evaluations import Evaluations
from rim_bench.storage.records import (
    BadRecord,
    EvaluationRecord,
    ItemRecord,
    JsonRecord,
    OptimizerRecord,
    RunSpec,
    SettingsRecord,
    TrainingRecord,
    spec_id,
)
from rim_bench.storage.seal import Seal
from rim_bench.util.files import canonical

ROOT = Path(__file__).resolve().parents[2]
FILES: dict[str, type[JsonRecord]] = {
    "spec.json": RunSpec,
    "train.json": TrainingRecord,
    "summary.json": EvaluationRecord,
}


def written(record: JsonRecord) -> bytes:
    """The bytes of a file that holds the record."""
    text = json.dumps(record.to_json(), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


@pytest.mark.parametrize("name", FILES)
def test_every_stored_record_comes_back_byte_for_byte(name: str) -> None:
    paths = sorted((ROOT / "results").rglob(name))
    assert len(paths) > 100
    for path in paths:
        record = FILES[name].from_json(json.loads(path.read_bytes()))
        assert written(record) == path.read_bytes() and not record.extra, path
        if isinstance(record, RunSpec):
            assert record.id == spec_id(json.loads(path.read_bytes())) == path.parent.name


def test_stored_items_come_back_byte_for_byte() -> None:
    paths = sorted((ROOT / "results").rglob("items.jsonl.gz"), key=lambda p: p.stat().st_size)
    for path in (*paths[:2], *paths[:: len(paths) // 8]):
        data = gzip.decompress(path.read_bytes())
        items = Evaluations(Seal(path.parents[2]), "eval", EvaluationRecord, ItemRecord).items(path.parent.name)
        assert "".join(canonical(item) + "\n" for item in items).encode() == data and not any(i.extra for i in items)


SPEC: dict[str, Any] = {
    "schema": 1,
    "role": "arm",
    "method": {"name": "rim", "settings": {"K": 4}, "of another version": True},
    "task": {"name": "chain"},
    "budget": {"train_flops": 9},
    "selection": None,
    "another": {"a": [1, 2.0, None]},
}


def test_what_a_version_does_not_know_is_kept_and_nothing_is_added() -> None:
    spec = RunSpec.from_json(SPEC)
    assert canonical(spec) == canonical(SPEC) and spec.id == spec_id(SPEC)
    assert spec.extra == {"another": SPEC["another"]}
    assert spec.method.extra == {"of another version": True} and spec.optimizer == OptimizerRecord()
    assert (spec.seed, spec.parent, spec.selection, spec.total_budget) == (0, None, None, ("train-flops", 9.0))
    assert spec.says("selection") and not spec.says("seed") and spec.says("another")
    changed = dataclasses.replace(spec, seed=3)
    assert changed.to_json() == SPEC | {"seed": 3} and spec.to_json() == SPEC
    assert canonical(pickle.loads(pickle.dumps(spec))) == canonical(SPEC)


def test_a_new_record_writes_its_keys_but_not_what_does_not_hold() -> None:
    settings = SettingsRecord(max_tokens=8, batch_size=2)
    assert settings.to_json() == {"max_tokens": 8, "batch_size": 2}
    summary = EvaluationRecord(task="chain", n=1, settings=settings).to_json()
    assert summary["knob"] is None and summary["settings"] == settings.to_json() and summary["curve"] is False
    assert not {"repeat", "choice", "candidates", "processes", "data_notes"} & summary.keys()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.max_tokens = 9  # type: ignore[misc]


def test_an_item_without_id_or_mark_is_refused() -> None:
    for key in ("id", "correct"):
        with pytest.raises(BadRecord, match=f"{key} is missing"):
            ItemRecord.from_json({k: v for k, v in {"id": "q1", "correct": True}.items() if k != key})


RECORDS = {"spec", "summary", "training", "item"}
"""Names under which the package holds the records of a run."""
BACKBONES = {"engine/backbone.py", "engine/distributed/trainer.py", "engine/export.py", "bench/rivals.py"}
"""Where `spec` is a backbone's own, as `resolve_backbone` gives it: no record of a run."""


def test_nothing_outside_storage_reads_a_record_by_its_keys() -> None:
    """The types say it too (mypy): a record is no mapping. This holds for what mypy sees as Any."""
    assert not issubclass(JsonRecord, Mapping)
    found = []
    for path in sorted((ROOT / "rim_bench").rglob("*.py")):
        if path.parent.name == "storage" or path.relative_to(ROOT / "rim_bench").as_posix() in BACKBONES:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            receiver, key = None, None
            if isinstance(node, ast.Subscript):
                receiver, key = node.value, node.slice
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
                receiver, key = node.func.value, node.args[0] if node.args else None
            name = getattr(receiver, "attr", None)  # of an attribute: a name alone may hold other objects
            if name in RECORDS and isinstance(key, ast.Constant) and isinstance(key.value, str):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found
