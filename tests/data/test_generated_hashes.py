"""Generated sets have a published hash: a generator that drifts is refused like a changed file; other sizes and seeds
are not.
"""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest

from rim_bench.data.datasets import evaluation_data, training_data
from rim_bench.data.listing import sizes, task_lines
from rim_bench.data.reader import ChangedData
from rim_bench.data.task import Task, load_task, task_names
from rim_bench.tasks import permute
from rim_bench.util.errors import UsageError

GENERATED = [name for name in task_names() if "generator" in load_task(name).metadata]


def changed(task: Task, **keys: Any) -> Task:
    return dataclasses.replace(task, metadata=task.metadata | keys)


@pytest.fixture
def drifted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator whose steps, and nothing else, are not what they were."""
    before = permute.generate

    def generate(n: int, levels: list[str], seed: int, split: str) -> list[Any]:
        made = before(n, levels, seed, split)
        return [dataclasses.replace(made[0], steps=(*made[0].steps, "a0")), *made[1:]]

    monkeypatch.setattr(permute, "generate", generate)


@pytest.mark.parametrize("name", GENERATED)
def test_every_generated_set_has_a_hash_for_its_size(name: str) -> None:
    task = load_task(name)
    per = {split: n for split, n in task.metadata["sizes"].items() if n}
    assert set(task.metadata["generated"]) == set(per)
    counts = {s: n * (1 if s == "train" else len(task.metadata["levels"][s])) for s, n in per.items()}
    assert {split: one["n"] for split, one in task.metadata["generated"].items()} == counts
    if task.metadata["source"] == "generator":
        assert sizes(task) == counts
    text = "\n".join(task_lines(name, long=True))
    assert all(
        f"sha256 of the generated {s} set: {one['sha256']}" in text for s, one in task.metadata["generated"].items()
    )


@pytest.mark.parametrize(
    "name", [n for n in GENERATED if load_task(n).metadata["source"] == "generator" and n != "chain_gate"]
)
def test_validation_sets_are_those_published(name: str) -> None:
    """The test sets of the litmus families are compared beside their pins; training sets at every run that trains on
    one.
    """
    assert evaluation_data(load_task(name), split="validation").registered is True


def test_a_training_set_is_held_to_its_hash_and_prosqas_note_stays(published: Path) -> None:
    train, validation = training_data(load_task("prosqa"), data=published)
    assert train.registered is True and validation.registered is True and "generated" in train.notes[0]
    assert train.sha256 == load_task("prosqa_ood").metadata["generated"]["train"]["sha256"]  # the same graphs


def test_a_drifted_generator_is_refused_and_taken_only_when_allowed(drifted: None) -> None:
    task = load_task("permute")
    message = (
        r"the 1,200 test examples that rim_bench.tasks.permute generates are not those registered for task "
        r"permute: sha256 .{12} "
    )
    with pytest.raises(ChangedData, match=message + "instead of 8dbbe8b408b5.*--allow-changed-data"):
        evaluation_data(task)
    with pytest.raises(ChangedData, match="the 38,400 train examples"):
        training_data(task)
    taken = evaluation_data(task, allow_changed=True)
    assert taken.registered is False and "instead of 8dbbe8b408b5" in taken.notes[0]
    train, validation = training_data(task, allow_changed=True)
    assert (train.registered, validation.registered) == (False, False)


def test_limits_other_sizes_and_other_seeds_are_not_held_to_the_hash(drifted: None) -> None:
    task = load_task("permute")
    assert evaluation_data(task, limit=40).registered is None
    smaller = changed(task, sizes={"train": 200, "validation": 5, "test": 5})
    assert evaluation_data(smaller).registered is None
    assert [made.registered for made in training_data(smaller, seed=3)] == [None, None]
    assert evaluation_data(changed(task, generated={})).registered is None


def test_another_seed_of_training_is_another_set() -> None:
    task = changed(load_task("permute"), generated={"train": {"n": 300, "sha256": "0" * 64}})
    assert training_data(task, seed=1, limit=300)[0].registered is None
    with pytest.raises(ChangedData):  # the same request with the default seed is held to it
        training_data(task, limit=300)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("tset: {n: 5, sha256: HASH}", "key of generated"),
        ("test: HASH", "generated.test needs n"),
        ("test: {n: true, sha256: HASH}", "generated.test needs n"),
        ("test: {n: 5, sha256: HASH, seed: 1}", "generated.test needs n"),
        ("test: {n: 5, sha256: abc}", "generated.test.sha256 must be a sha256 of 64 digits"),
    ],
)
def test_a_malformed_hash_is_refused(line: str, told: str, tmp_path: Path) -> None:
    text = load_task("permute").path.read_text()
    head, _, rest = text.partition("      test: {n: 1200")
    digest = "".join(random.Random(0).choices("0123456789abcdef", k=64))
    (tmp_path / "own.yaml").write_text(
        head + "      " + line.replace("HASH", f"'{digest}'") + "\n" + rest.partition("\n")[2]
    )
    with pytest.raises(UsageError, match=told):
        load_task(str(tmp_path / "own.yaml"))
