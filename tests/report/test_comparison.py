"""Tables and plots from small invented runs, stored through the store's own interface."""

from __future__ import annotations

import csv
import io
import math
import random
from pathlib import Path
from typing import Any

import pytest
from fabricated import evaluate, train
from rich.console import Console
from stored import evaluation_of, training_of

from rim_bench.evidence.floors import FloorKind
from rim_bench.evidence.rows import collect
from rim_bench.evidence.stats import tests
from rim_bench.report import comparison
from rim_bench.report.plots.accuracy import accuracy_plot
from rim_bench.report.plots.training import training_plot
from rim_bench.storage.run_folder import Run, Store
from rim_bench.util.errors import UsageError
from rim_bench.util.table import Table

PASSES = {"direct": 2, "pause": 2, "cot": 9, "coconut": 5, "rim": 2}


def _weights(folder: Path) -> None:
    (folder / "weights").write_bytes(b"w")


def item(
    name: str, k: int, correct: bool, *, level: str = "", ood: bool = False, reference: str | None = None
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": f"toy/test/{k}",
        "task": "toy",
        "level": level,
        "ood": ood,
        "prompt_hash": f"{k:x}",
        "output": "#### 1",
        "reference": str(k % 10) if reference is None else reference,
        "answer": str((k + (not correct)) % 10),
        "correct": correct,
        "strict": correct,
        "flexible": correct or k % 20 == 0,
        "unparseable": k % 10 == 9,
        "empty": False,
        "capped": False,
        "overlong": False,
        "prompt_tokens": 23,
        "generated_tokens": 2,
        "latent_positions": 8 if name == "rim" else 0,
        "passes": PASSES.get(name, 3),
        "passes_to_answer": 1,
        "flops_prefill": 2_000_000,
        "flops_decode": 500_000,
        "latency_s": 0.01,
        "batch_size": 64,
    }
    if name == "rim":
        record["blocks"] = [{"answer": "1", "correct": k % 4 == 0}, {"answer": "1", "correct": correct}]
    return record


def add(
    store: Store,
    name: str,
    correct: list[bool],
    *,
    seed: int = 0,
    start: str = "cot",
    levels: tuple[str, ...] = (),
    spec: Any = None,
    **summary: Any,
) -> Run:
    """A finished run; item k is solved where correct[k]; level T=4 and above is OOD; `spec` and `summary` override
    fields.
    """
    record: dict[str, Any] = {
        "schema": 1,
        "method": {"name": name, "settings": {"K": 2} if name == "rim" else {}, "label": name},
        "backbone": {"name": "tiny", "layers": 4},
        "start": start,
        "parent": f"cot-{seed}" if start == "cot" else None,
        "task": {
            "name": "toy",
            "version": 1,
            "train_sha256": "a" * 64,
            "validation_sha256": "b" * 64,
            "steps": "equations",
        },
        "budget": {"examples": 38400, "inherited_examples": 25600},
        "optimizer": {"lr": 0.001},
        "seed": seed,
        "dtype": "float32",
        "quick": False,
    }
    run = store.open(record | (spec or {}))
    for step in range(1, 41):
        run.append_metrics(
            {
                "step": step,
                "stage": "grounding" if step <= 25 and name == "rim" else "train",
                "loss": 4.0 / step + 0.1 * seed,
            }
        )
    training = {"steps": 40, "examples": 38400, "inherited_examples": 25600, "seconds": 90.0, "examples_per_s": 426.7}
    run.finish(_weights, training)
    items = []
    for k, good in enumerate(correct):
        level = levels[k % len(levels)] if levels else ""
        items.append(item(name, k, good, level=level, ood=level in ("T=4", "T=5")))
    told = {
        "schema": 1,
        "task": "toy",
        "task_title": "Toy sums",
        "task_version": 1,
        "evaluator_version": 1,
        "split": "test",
        "n": len(items),
        "data_sha256": "c" * 64,
        "data_source": "generated",
        "effort": None,
        "limit": None,
        "quick": False,
        "settings": {"max_tokens": 16, "batch_size": 64},
        "seconds": 2.0,
        "examples_per_s": 500.0,
        "latency": {
            "batch": 1,
            "n": 20,
            "ttft_ms": {"median": 3.5, "p95": 4.0},
            "full_ms": {"median": 7.25, "p95": 9.0},
        },
        "peak_memory_bytes": 1,
        "floor": {"answer": "0", "accuracy": 0.1},
        "prompt_note": None,
    }
    run.write_evaluation("toy-test", items, told | summary)
    return run


def coin(p: float, n: int, seed: int) -> list[bool]:
    rng = random.Random(seed)
    return [rng.random() < p for _ in range(n)]


def grid(table: Table, caption: str, section: int = 0) -> list[dict[str, str]]:
    found = next(g for g in table.sections[section].panels if caption in g.caption and not g.short)
    return [dict(zip(found.columns, row, strict=True)) for row in found.rows]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_numbers_of_one_row(store: Store) -> None:
    run = add(store, "rim", [k < 81 for k in range(263)])
    table = comparison.comparison([run])
    (row,) = grid(table, "Accuracy")
    assert row["method"] == "rim (from cot)" and row["n"] == "263" and row["seeds"] == "1"
    assert row["accuracy % (all)"] == "30.8 [25.5, 36.6]"  # Newcombe 1998, method 3: 0.2553 to 0.3662
    (scores,) = grid(table, "Other scores")
    assert scores["unparseable %"] == "9.9" and scores["capped %"] == "0.0" and scores["lm-eval strict %"] == "-"
    (cost,) = grid(table, "Cost")
    assert (cost["training examples"], cost["train min"]) == ("38,400 + 25,600 inherited", "1.5")
    assert (cost["TTFT ms"], cost["full answer ms"], cost["eval ex/s"]) == ("3.5", "7.2", "500.0")
    assert (cost["FLOPs per item"], cost["passes"], cost["latent positions"]) == ("2.5 M", "2.0", "8.0")
    (oracle,) = grid(table, "Upper bound: never ranked")
    solved = sum(k < 81 or k % 4 == 0 for k in range(263))
    assert oracle["block 1"] == f"{100 * 66 / 263:.1f}" and oracle["block 2"] == "30.8"
    assert oracle["any block % (oracle)"].startswith(f"{100 * solved / 263:.1f} [")
    assert "**" not in table.to_markdown()


def test_a_question_without_blocks_counts_as_wrong(store: Store) -> None:
    run = add(store, "rim", [True] * 10)
    items = [
        i.to_json() if k else i.without("blocks") | {"correct": False} for k, i in enumerate(run.read_items("toy-test"))
    ]
    run.write_evaluation("toy-test", items, evaluation_of(run, "toy-test"))
    (row,) = grid(comparison.comparison([run]), "Upper bound")
    assert (row["block 1"], row["block 2"], row["any block % (oracle)"][:4]) == ("20.0", "90.0", "90.0")


def test_seeds_are_averaged_on_n_questions(store: Store) -> None:
    runs = [add(store, "direct", [k < solved for k in range(100)], seed=s) for s, solved in enumerate((40, 50, 60))]
    (row,) = grid(comparison.comparison(runs), "Accuracy")
    assert row["seeds"] == "3" and row["n"] == "100"
    assert row["accuracy % (all)"] == "50.0 ± 10.0 [40.4, 59.6]"  # Wilson 50/100, not 150/300


def test_a_seed_twice_is_not_averaged(store: Store) -> None:
    runs = [add(store, "direct", coin(0.5, 50, s), spec={"parent": f"cot-{s}"}) for s in (1, 2)]
    table = comparison.comparison(runs)
    assert [r["seeds"] for r in grid(table, "Accuracy")] == ["1", "1"]
    assert len({r["method"] for r in grid(table, "Accuracy")}) == 2


def test_levels_and_ood_stand_apart(store: Store) -> None:
    levels = ("T=10", "T=2", "T=4", "T=5")
    run = add(store, "cot", [k % 4 < 2 for k in range(400)], levels=levels)
    (row,) = grid(comparison.comparison([run]), "Accuracy")
    assert [c for c in row if "T=" in c] == [
        "T=2 % (n=100)",
        "T=10 % (n=100)",
        "T=4 (OOD) % (n=100)",
        "T=5 (OOD) % (n=100)",
    ]
    assert row["accuracy % (in distribution)"].startswith("100.0") and row["OOD % (n=200)"].startswith("0.0 [0.0, 1.9]")
    records = {r["set"]: r for r in csv.DictReader(io.StringIO(comparison.comparison([run]).to_csv()))}
    assert (
        records["T=4"]["ood"] == "True"
        and records["T=4"]["accuracy"] == "0.0"
        and records["in distribution"]["n"] == "200"
    )
    assert records["T=4"]["run_ids"] == run.id and records["T=4"]["data_sha256"] == "c" * 64


@pytest.mark.parametrize(
    "other",
    [
        {"data_sha256": "d" * 64},
        {"evaluator_version": 2},
        {"task_version": 2},
        {"split": "validation"},
        {"task_title": "Other"},
        {"spec": {"backbone": {"name": "gpt2"}}},
    ],
)
def test_what_differs_is_never_in_one_section(store: Store, other: dict[str, Any]) -> None:
    runs = [add(store, "direct", coin(0.5, 60, 1)), add(store, "rim", coin(0.5, 60, 2), **other)]
    table = comparison.comparison(runs)
    assert [len(grid(table, "Accuracy", s)) for s in range(len(table.sections))] == [1, 1]
    assert not any("Paired" in g.caption for s in table.sections for g in s.panels)


def test_rows_keep_a_fixed_order(store: Store) -> None:
    names = ["zebra", "rim", "icot", "coconut", "cot", "direct", "pause"]
    runs = [add(store, name, [k < 10 * i for k in range(100)]) for i, name in enumerate(names, 1)]
    labels = [r["method"].split()[0] for r in grid(comparison.comparison(runs), "Accuracy")]
    assert labels == ["direct", "pause", "cot", "coconut", "rim", "icot", "zebra"]


def test_pairs(store: Store) -> None:
    n = 500
    direct = add(store, "direct", [k < 200 for k in range(n)])
    better = add(store, "cot", [k < 300 for k in range(n)])  # solves 100 more, loses none
    close = add(store, "rim", [6 <= k < 212 for k in range(n)])  # 12 only rim, 6 only direct
    rows = {
        (r["first"].split()[0], r["second"].split()[0]): r
        for r in grid(comparison.comparison([direct, better, close]), "Paired")
    }
    assert len(rows) == 3
    far = rows["direct", "cot"]
    assert (far["difference"], far["only first / only second"], far["Holm p"]) == ("-20.0", "0 / 100", "<0.001")
    assert far["verdict"] == "one seed (these weights: cot (from cot) higher)"
    near = rows["direct", "rim"]
    assert (near["difference"], near["only first / only second"], near["p (questions)"]) == ("-1.2", "6 / 12", "0.238")
    assert (
        near["verdict"] == "one seed (these weights: no difference shown)"
        and near["Holm p"] == "0.238"
        and near["smallest detectable"] == "2.4"
    )


def test_a_large_family_makes_it_harder(store: Store) -> None:
    """8 against 0 has p = 0.008; among ten pairs Holm makes it 0.078."""
    base, better = [k < 200 for k in range(500)], [k < 208 for k in range(500)]
    few = comparison.comparison([add(store, "direct", base), add(store, "rim", better)])
    assert grid(few, "Paired")[0]["verdict"] == "one seed (these weights: rim (from cot) higher)"
    many = comparison.comparison([add(store, n, better if n == "rim" else base) for n in PASSES])
    row = next(r for r in grid(many, "Paired") if r["first"].startswith("direct") and r["second"].startswith("rim"))
    none = "one seed (these weights: no difference shown)"
    assert (row["p (questions)"], row["Holm p"], row["verdict"]) == ("0.008", "0.078", none)


def test_other_questions_are_another_section(store: Store) -> None:
    runs = [
        add(store, "direct", coin(0.5, 60, 1)),
        add(store, "rim", coin(0.5, 61, 2)),
        add(store, "cot", coin(0.5, 60, 3)),
    ]
    table = comparison.comparison(runs)
    assert [len(grid(table, "Accuracy", k)) for k in (0, 1)] == [2, 1]
    assert [s.title.partition("[")[2][:12] for s in table.sections] == ["questions 60", "questions 61"]
    assert len(grid(table, "Paired")) == 1 and not any("Paired" in g.caption for g in table.sections[1].panels)


# Other seeds, and other evaluations of the same run


def family(store: Store, name: str, shares: tuple[float, ...], n: int = 300) -> list[Run]:
    """A run per seed with exactly this share right, on questions of its own."""
    runs = []
    for seed, share in enumerate(shares):
        right = set(random.Random(f"{name} {seed}").sample(range(n), round(share * n)))
        runs.append(add(store, name, [k in right for k in range(n)], seed=seed))
    return runs


def verdict(runs: list[Run]) -> str:
    (row,) = grid(comparison.comparison(runs), "Paired")
    return row["verdict"]


def test_three_seeds_show_large_differences_only(store: Store) -> None:
    runs = family(store, "coconut", (0.793, 0.613, 0.520)) + family(store, "rim", (0.437, 0.593, 0.283))
    table = comparison.comparison(runs)
    (row,) = grid(table, "Paired")
    assert row["verdict"] == "undecided (8 seeds would decide)" and row["difference"] == "+20.4"
    assert row["p (questions)"] == "<0.001" and row["p (seeds)"] == row["Holm p"] == "0.174"
    low, high = map(float, row["95 %"].strip("[]").split(", "))
    assert low < 0 < high
    assert any(note.startswith("Verdicts count seeds") for note in table.sections[0].notes)
    assert not any("One seed" in note for note in table.sections[0].notes)
    far = family(store, "cot", (0.997, 0.999, 1.0), 1000) + family(store, "direct", (0.61, 0.60, 0.55), 1000)
    assert verdict(far) == "cot (from cot) higher"


def test_one_seed_beside_several_gives_no_verdict(store: Store) -> None:
    one, several = family(store, "direct", (0.9,)), family(store, "rim", (0.3, 0.5, 0.7))
    table = comparison.comparison(one + several)
    assert grid(table, "Paired")[0]["verdict"] == "one seed (these weights: direct (from cot) higher)"
    assert any(note.startswith("One seed: direct (from cot). One seed gives") for note in table.sections[0].notes)


def test_p_is_exact_only_with_one_seed_each(store: Store) -> None:
    """Means over two seeds: 20 questions half a point better, 4 a whole one worse.

    A sign test would count 20 against 4.
    """
    right = [[True] * 100 + [False] * 100, [True] * 100 + [False] * 100]
    other = [
        [not (k < 4) for k in range(100)] + [k < 20 for k in range(100)],
        [not (k < 4) for k in range(100)] + [False] * 100,
    ]
    runs = [add(store, "direct", r, seed=s) for s, r in enumerate(right)] + [
        add(store, "rim", r, seed=s) for s, r in enumerate(other)
    ]
    (row,) = grid(comparison.comparison(runs), "Paired")
    p = math.erfc(abs(4 - 20 * 0.5) / math.sqrt(4 + 20 * 0.25) / math.sqrt(2))
    assert row["only first / only second"] == "4 / 20" and row["p (questions)"] == f"{p:.3f}" == "0.046"
    (single,) = grid(comparison.comparison([runs[0], runs[2]]), "Paired")
    assert single["p (questions)"] == f"{tests.mcnemar(4, 20):.3f}" == "0.002"


def test_the_batch_tells_no_rows_apart(store: Store) -> None:
    runs = [
        add(store, "direct", coin(0.5, 60, s), seed=s, settings={"max_tokens": 16, "batch_size": 64 // (s + 1)})
        for s in (0, 1)
    ]
    (row,) = grid(comparison.comparison(runs), "Accuracy")
    assert row["seeds"] == "2"
    again = evaluation_of(runs[0], "toy-test").to_json()
    runs[0].write_evaluation(
        "z", runs[0].read_items("toy-test"), again | {"settings": {"max_tokens": 16, "batch_size": 8}}
    )
    table = comparison.comparison(runs)
    assert len(grid(table, "Accuracy")) == 1 and len(table.left_out) == 1
    assert (
        f"{runs[0].id}: its evaluation 'z' differs from 'toy-test' in nothing that changes an answer" in table.left_out
    )


def test_a_model_is_not_paired_with_itself(store: Store) -> None:
    run = train(store, "rim")
    evaluate(run, [k < 100 for k in range(400)])
    evaluate(run, [k < 300 for k in range(400)], effort=8, key="toy-test-8")
    assert not any("Paired" in g.caption for g in comparison.comparison([run]).sections[0].panels)
    other = train(store, "direct")
    evaluate(other, [k < 200 for k in range(400)])
    found = [(r["first"], r["second"]) for r in grid(comparison.comparison([run, other]), "Paired")]
    assert found == [("direct (from cot)", "rim (from cot)"), ("direct (from cot)", "rim (from cot), effort 8")]


def test_questions_that_are_too_long_cost_nothing_in_no_mean(store: Store) -> None:
    run = train(store, "rim")
    evaluate(run, [k >= 10 for k in range(40)], flops=1e6, passes=3, overlong=10)
    table = comparison.comparison([run])
    (cost,) = grid(table, "Cost")
    assert (cost["passes"], cost["FLOPs per item"], cost["KV cache"]) == ("3.0", "1 M", "4.1 kB")
    assert (
        grid(table, "Accuracy")[0]["accuracy % (all)"].startswith("75.0")
        and grid(table, "Other")[0]["overlong %"] == "25.0"
    )
    assert any(note.startswith("Too long for the model: up to 10 questions") for note in table.sections[0].notes)
    (record,) = csv.DictReader(io.StringIO(table.to_csv()))
    assert (record["passes"], record["overlong"]) == ("3.0", "0.25")


def test_training_flops_are_not_known_without_the_inherited_part(store: Store) -> None:
    runs = [train(store, name, flops=None) for name in ("direct", "cot", "rim")]
    for run, inherited in zip(runs, ({"inherited_flops": None}, {}, {}), strict=True):
        evaluate(run, coin(0.5, 40, 1))
        run.finish(_weights, training_of(run).to_json() | inherited)
    orphan = train(store, "pause", flops=None, spec={"parent": None})
    evaluate(orphan, coin(0.5, 40, 1))
    told = training_of(orphan)
    orphan.finish(_weights, told.to_json() | {"inherited_flops": None})
    table = comparison.comparison([*runs, orphan])
    found = {r["method"].split()[0]: r["training FLOPs"] for r in grid(table, "Cost")}
    assert found == {"direct": "-", "pause": "1 T", "cot": "1 T + 1 T inherited", "rim": "1 T + 1 T inherited"}
    assert any("training FLOPs were not counted in all of them" in note for note in table.sections[0].notes)


def test_other_devices_are_told(store: Store) -> None:
    runs = [train(store, name) for name in ("direct", "rim", "cot")]
    given = {"device": "cpu", "host_cpu": "A", "threads": 2, "dtype": "float32"}
    evaluate(runs[0], coin(0.5, 40, 1), runtime=given)
    evaluate(runs[1], coin(0.5, 40, 2), runtime=given | {"threads": 4})
    evaluate(
        runs[2],
        coin(0.5, 40, 2),
        runtime=given | {"device": "NVIDIA"},
        settings={"device": "cuda", "dtype": "bfloat16"},
    )

    def notes(*chosen: Run) -> list[str]:
        return [n for n in comparison.comparison(chosen).sections[0].notes if "Latencies" in n or "different ways" in n]

    assert notes(runs[0]) == []
    assert notes(*runs[:2]) == [
        "Latencies are not comparable: they were taken on different machines or settings (threads 2, 4)."
    ]  # fmt: skip
    assert notes(runs[0], runs[2])[0] == (
        "Evaluated in different ways (device cpu, cuda; dtype bfloat16, float32): a difference may be due to that."
    )


def test_floor(store: Store) -> None:
    weak, strong = (
        [k < 24 for k in range(200)],
        [k < 100 for k in range(200)],
    )  # 12 % [8.2, 17.2] includes the floor of 10 %
    only_weak = comparison.comparison([add(store, "direct", weak), add(store, "pause", weak)])
    assert (
        "Floor (all): the best constant answer ('0') scores 10.0 % [6.6, 14.9]; shortcuts were not measured. All "
        "accuracies are at the floor and cannot be ranked." in only_weak.sections[0].notes
    )
    assert grid(only_weak, "Paired")[0]["verdict"] == "undecided (both at the floor)"
    both = comparison.comparison([add(store, "direct", weak), add(store, "rim", strong)])
    marks = ["at the floor" in r["accuracy % (all)"] for r in grid(both, "Accuracy")]
    assert marks == [True, False] and "cannot be ranked" not in both.to_markdown()


def test_floor_of_a_part_is_counted_from_its_references(store: Store) -> None:
    run = add(store, "direct", [True] * 40, levels=("T=1", "T=4"), floor={"answer": "0", "accuracy": 0.99})
    group = collect([run])[0][0]
    floor = group.floor(group.scopes[0])
    assert (floor.kind, floor.name, floor.value, floor.measured) == (FloorKind.CONSTANT, "0", 0.2, False)  # even k only


@pytest.mark.parametrize("where", [{"spec": {"quick": True}}, {"quick": True}])
def test_quick_is_stamped_everywhere(store: Store, where: dict[str, Any]) -> None:
    table = comparison.comparison(
        [add(store, "direct", coin(0.5, 30, 1)), add(store, "cot", coin(0.5, 30, 2), **where)]
    )
    assert table.to_markdown().startswith(
        "# Comparison of reasoning methods (quick: not a result)\n\n> quick: not a result\n"
    )
    assert {r["stamp"] for r in csv.DictReader(io.StringIO(table.to_csv())) if r["method"] == "cot"} == {
        "quick: not a result"
    }
    assert "quick: not a result" in table.to_latex().split(r"\caption")[1]
    assert "quick: not a result" in shown(table, 80)
    assert "quick" not in comparison.comparison([add(store, "rim", coin(0.5, 30, 1))]).to_markdown()


def test_limits_and_prompt_notes_are_told(store: Store) -> None:
    run = add(store, "direct", coin(0.5, 30, 1), limit=30, prompt_note="prompt differs from training")
    notes = comparison.comparison([run]).sections[0].notes
    assert (
        "First 30 rows only: not the full set." in notes and "direct (from cot): prompt differs from training." in notes
    )


def test_a_limit_beyond_the_full_set_is_none(store: Store) -> None:
    table = comparison.comparison([add(store, "direct", coin(0.5, 30, 1), limit=31)])
    assert "not the full set" not in table.to_markdown()


def test_no_discordant_question_leaves_nothing_to_detect_from(store: Store) -> None:
    same = [k < 200 for k in range(500)]
    table = comparison.comparison([add(store, "direct", same), add(store, "rim", same)])
    (row,) = grid(table, "Paired")
    assert (row["only first / only second"], row["smallest detectable"]) == ("0 / 0", "-")
    assert row["verdict"] == "one seed (these weights: no difference shown)"
    (note,) = [n for n in table.sections[0].notes if n.startswith("Smallest detectable")]
    assert "up to 0.8 % of n = 500 (all)" in note  # z²/(n + z²) = 3.84/503.84


def test_headings_are_short_and_differ(store: Store) -> None:
    tiny = {
        "name": "tiny",
        "kind": "scratch",
        "family": "llama",
        "layers": 4,
        "width": 64,
        "heads": 4,
        "vocabulary": 4096,
    }
    gpt2 = {
        "name": "gpt2",
        "kind": "hub",
        "hub": "openai-community/gpt2",
        "revision": None,
        "tuning": "lora",
        "lora_rank": 128,
    }
    shapes = (gpt2, tiny, tiny | {"heads": 8})
    table = comparison.comparison([add(store, "direct", coin(0.5, 30, 1), spec={"backbone": b}) for b in shapes])
    assert sorted(s.title for s in table.sections) == [
        "Toy sums, test, gpt2: openai-community/gpt2, pretrained, LoRA rank 128",
        "Toy sums, test, tiny: llama, 4 layers x 64, vocabulary 4096, from scratch [heads 4]",
        "Toy sums, test, tiny: llama, 4 layers x 64, vocabulary 4096, from scratch [heads 8]",
    ]
    assert any("heads=8" in note for s in table.sections for note in s.notes)


def test_costs_that_matter_most_come_first_and_small_ones_are_not_zero(store: Store) -> None:
    run = add(store, "direct", coin(0.5, 30, 1))
    training = training_of(run)
    run.finish(_weights, training.to_json() | {"seconds": 2.0})
    (cost,) = grid(comparison.comparison([run]), "Cost")
    assert list(cost)[1:5] == ["passes", "passes to answer", "FLOPs per item", "generated tokens"]
    assert (cost["train min"], cost["latent positions"]) == ("<0.1", "0.0")


def test_csv_tells_where_a_row_comes_from(store: Store) -> None:
    runs = [add(store, "direct", coin(0.5, 30, s), seed=s) for s in (0, 1)]
    runs.append(add(store, "cot", coin(0.5, 30, 2), start="recipe"))
    table = csv.DictReader(io.StringIO(comparison.comparison(runs).to_csv()))
    cot, direct = sorted((r for r in table if "seed" not in r["set"]), key=lambda r: r["method"])
    assert (direct["start"], direct["seeds"], direct["parent_ids"], direct["n"]) == ("cot", "0 1", "cot-0 cot-1", "30")
    assert direct["run_ids"] == f"{runs[0].id} {runs[1].id}"
    assert (direct["data_sha256"], direct["train_sha256"]) == ("c" * 64, "a" * 64)
    assert (cot["start"], cot["parent_ids"]) == ("recipe", "")


def test_same_labels_are_told_apart(store: Store) -> None:
    runs = [add(store, "direct", coin(0.5, 30, 1), spec={"optimizer": {"lr": lr}}) for lr in (0.001, 0.01)]
    assert sorted(r["method"] for r in grid(comparison.comparison(runs), "Accuracy")) == [
        "direct (from cot) [lr=0.001]",
        "direct (from cot) [lr=0.01]",
    ]


def test_starts_are_told(store: Store) -> None:
    runs = [
        add(store, "direct", [k < 90 for k in range(100)]),
        add(store, "direct", [k < 20 for k in range(100)], start="recipe"),
    ]
    table = comparison.comparison(runs)
    assert {r["method"] for r in grid(table, "Accuracy")} == {"direct", "direct (from cot)"}
    assert grid(table, "Paired")[0]["verdict"].endswith("higher) (other start)")
    assert any("starting weights" in note for note in table.sections[0].notes)


def test_damaged_and_unevaluated_runs_are_named(store: Store) -> None:
    good, bad = add(store, "direct", coin(0.5, 30, 1)), add(store, "rim", coin(0.5, 30, 2))
    path = bad.path / "eval/toy-test/items.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-9])
    empty = store.open({"method": {"name": "cot"}, "task": {"name": "toy"}})
    text = comparison.comparison([good, bad, empty]).to_markdown()
    assert (
        f"{bad.id}: evaluation" in text
        and "does not match the sha256" in text
        and f"{empty.id}: not evaluated yet" in text
    )
    with pytest.raises(UsageError, match="nothing to compare"):
        comparison.comparison([empty])


def test_same_runs_same_bytes(store: Store, tmp_path: Path) -> None:
    runs = [add(store, name, coin(0.5, 120, 3), levels=("T=1", "T=4")) for name in ("rim", "direct", "cot")]
    one, two = comparison.comparison(runs), comparison.comparison([Run(r.path) for r in reversed(runs)])
    assert (one.to_markdown(), one.to_csv(), one.to_latex()) == (two.to_markdown(), two.to_csv(), two.to_latex())
    for suffix in ("svg", "png"):
        first, second = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
        accuracy_plot(runs, first)
        accuracy_plot(list(reversed(runs)), second)
        assert first.read_bytes() == second.read_bytes()


def shown(table: Table, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(table.to_rich(width))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return str(text)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_terminal_is_readable(store: Store, width: int) -> None:
    runs = [
        add(store, name, coin(0.5, 120, i), levels=("T=1", "T=2", "T=3", "T=4", "T=5")) for i, name in enumerate(PASSES)
    ]
    table = comparison.comparison(runs)
    lines = shown(table, width).splitlines()
    assert max(map(len, lines)) <= width
    for row in grid(table, "Accuracy"):  # label and interval unbroken on one line
        assert any(
            row["method"] in line and row["accuracy % (in distribution)"].removesuffix(" at the floor") in line
            for line in lines
        )


def test_points_never_stand_without_their_verdict_and_questions(store: Store) -> None:
    """However narrow the terminal: a difference without its verdict says more than the data."""
    long = {"method": {"name": "rim", "settings": {}, "label": "rim-of-a-long-name-indeed"}}
    given = {"levels": ("T=1", "T=5")}
    runs = [add(store, "direct", coin(0.1, 60, 1), **given), add(store, "rim", coin(0.1, 60, 2), spec=long, **given)]
    (section,) = comparison.comparison(runs).sections
    paired = [g for g in section.panels if g.caption.startswith("Paired with")]
    assert (
        len(paired) == len([s for s in ("in distribution", "OOD") if any(s in g.caption for g in section.panels)]) == 2
    )
    assert all(g.columns[:3] == ("method", "verdict", "points") for g in paired)
    text = shown(comparison.comparison(runs), 60)
    assert sum("rim-of-a-long-name" in line and "undecided (" in line for line in text.splitlines()) == 2


def test_latex_is_escaped(store: Store) -> None:
    run = add(
        store,
        "direct",
        coin(0.5, 30, 1),
        spec={"method": {"name": "direct", "settings": {}, "label": "a_b & 50% {x} ~^\\"}},
    )
    text = comparison.comparison([run]).to_latex()
    assert r"a\_b \& 50\% \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{} (from cot)" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\bottomrule") == 4  # accuracy, flags, scores, cost


def test_plots(store: Store, tmp_path: Path) -> None:
    runs = [
        add(store, name, coin(0.6, 120, i), seed=s, spec={"quick": True})
        for i, name in enumerate(PASSES)
        for s in (0, 1)
    ]
    accuracy_plot(runs, tmp_path / "dots.svg")
    training_plot(runs, tmp_path / "loss.svg")
    for path in (tmp_path / "dots.svg", tmp_path / "loss.svg"):
        text = path.read_text()
        assert "quick: not a result" in text and "dc:date" not in text
    with pytest.raises(UsageError, match="png, svg, pdf"):
        accuracy_plot(runs, tmp_path / "a.gif")
    with pytest.raises(UsageError, match="no training"):
        training_plot([store.open({"method": {"name": "x"}, "task": {"name": "y"}})], tmp_path / "b.svg")


def test_training_compute_and_what_was_matched(store: Store) -> None:
    runs = [
        train(store, "direct", flops=None),
        train(store, "rim", used=3.1e12 + 6e8),
        train(store, "direct", used=3.1e12 - 3e8, examples=50_000),
    ]
    for run in runs:
        evaluate(run, coin(0.5, 40, 1))
    table = comparison.comparison(runs)
    equal, direct, rim = grid(table, "Cost")  # rows by examples first
    assert [r["method"] for r in (equal, direct, rim)] == [
        "direct (from cot)",
        "direct (from cot, equal FLOPs)",
        "rim (from cot, equal FLOPs)",
    ]
    assert (equal["training FLOPs"], equal["budget met"]) == ("1 T + 1 T inherited", "100.00 % of 64,000")
    assert (rim["training FLOPs"], rim["budget met"]) == ("2.1 T + 1 T inherited", "100.02 % of 3.1 T")
    assert (rim["KV cache"], rim["peak memory"], rim["full answer ms (throughput)"]) == ("4.1 kB", "74.8 MB", "24.0")
    (note,) = [n for n in table.sections[0].notes if n.startswith("Matched")]
    assert note == (
        "Matched within rows of one training budget: training FLOPs, 3.1 T each, inherited part included, met within "
        "0.6 steps; training "
        "examples differ by a factor of 1.18 (2 rows). Nothing is matched between rows of different budgets (64,000 "
        "training examples, "
        "3.1 T training FLOPs)."
    )
    none = "one seed (these weights: no difference shown)"
    assert [r["verdict"] for r in grid(table, "Paired")] == [f"{none} (other budget)"] * 2 + [none]
    row = {r["label"]: r for r in csv.DictReader(io.StringIO(table.to_csv()))}["rim (from cot, equal FLOPs)"]
    assert (row["full_ms_p95"], row["ttft_ms_p95"], row["throughput_batch"], row["throughput_full_ms"]) == (
        "4.5",
        "2.25",
        "64.0",
        "24.0",
    )
    assert (row["budget_kind"], row["budget_asked"], row["budget_used"]) == (
        "train-flops",
        "3100000000000.0",
        "3100600000000.0",
    )
    assert (row["train_flops"], row["inherited_flops"], row["tuning_trials"], row["kv_bytes"]) == (
        "2100600000000.0",
        "1000000000000.0",
        "8",
        "4096.0",
    )


def test_equal_examples_are_named_with_the_flops_that_differ(store: Store) -> None:
    runs = [train(store, "direct", flops=None), train(store, "rim", flops=None)]
    training = training_of(runs[1])
    runs[1].finish(_weights, training.to_json() | {"flops": 2.6e12})
    for run in runs:
        evaluate(run, coin(0.5, 40, 1))
    notes = comparison.comparison(runs).sections[0].notes
    assert (
        "Matched: training examples, 38,400 + 25,600 inherited each; training FLOPs differ by a factor of 1.8." in notes
    )
    alone = comparison.comparison(runs[:1])
    assert not any(n.startswith("Matched") for n in alone.sections[0].notes)
    other = train(store, "cot", flops=None, examples=10)
    evaluate(other, coin(0.5, 40, 1))
    notes = comparison.comparison([runs[0], other]).sections[0].notes
    told = [n for n in notes if n.startswith("Matched")]
    assert told == [
        "Matched: nothing: the rows' training budgets differ (64,000 training examples, 25,610 training examples)."
    ]


def test_points_of_a_curve_are_no_rows(store: Store) -> None:
    run = train(store, "rim")
    evaluate(run, coin(0.5, 40, 1))
    without = comparison.comparison([run]).to_markdown()
    evaluate(run, coin(0.9, 40, 2), knob="K", value=8)
    assert comparison.comparison([run]).to_markdown() == without
    only = train(store, "cot")
    evaluate(only, coin(0.9, 40, 2), knob="votes", value=3)
    assert comparison.comparison([run, only]).left_out == (f"{only.id}: not evaluated yet but for points of a curve",)


def test_several_flops_budgets_are_told_apart_in_words(store: Store) -> None:
    runs = [train(store, "rim", flops=f) for f in (3.1e12, 6.2e12)]
    for run in runs:
        evaluate(run, coin(0.5, 40, 1))
    assert [r["method"] for r in grid(comparison.comparison(runs), "Accuracy")] == [
        "rim (from cot, 3.1 T FLOPs)",
        "rim (from cot, 6.2 T FLOPs)",
    ]


def test_a_panel_for_each_training_budget(store: Store, tmp_path: Path) -> None:
    runs = [train(store, name, flops=f) for name in ("direct", "rim") for f in (3.1e12, 6.2e12, None)]
    for run in runs:
        evaluate(run, coin(0.5, 40, 1))
    accuracy_plot(runs, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text("utf-8")
    for budget in ("3.1 T training FLOPs", "6.2 T training FLOPs", "64,000 training examples"):
        assert text.count(f"tiny: 4 layers; {budget}") == 1, budget
    assert text.count(">direct<") == text.count(">rim<") == 3 and "FLOPs)" not in text and "examples)" not in text
    accuracy_plot(runs[:1], tmp_path / "one.svg")
    assert "training FLOPs" not in (tmp_path / "one.svg").read_text("utf-8")
