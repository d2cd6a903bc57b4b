"""The model card and the hub's result files, read back by the hub's own library."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml
from fabricated import coin, evaluate, train

from rim_bench.report.model_card import card, hub_results
from rim_bench.storage.run_folder import Run, Store

EMBEDDED = Path(__file__).resolve().parents[2] / "results" / "embedded"


@pytest.fixture
def run() -> Run:
    return Store(EMBEDDED).find("rim@flops=4.7e12:seed=0")


def test_the_card_is_read_by_the_hub_with_the_accuracy_of_the_table(run: Run, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    path = tmp_path / "README.md"
    path.write_text(card(run, "<b><m><m></b>", 0, "How many are 2 and 3?"))
    loaded = ModelCard.load(path)
    (result,) = loaded.data.eval_results
    with (EMBEDDED / "table.csv").open(newline="") as file:
        (row,) = (r for r in csv.DictReader(file) if r["run_ids"] == run.id and r["set"].startswith("in distribution"))
    assert result.metric_value == pytest.approx(100 * float(row["accuracy"]), abs=0.005)
    assert (result.dataset_type, result.dataset_split, result.metric_type) == ("rim-bench/chain", "test", "accuracy")
    assert loaded.data.library_name == "transformers" and "rim-bench" in loaded.data.tags
    text = loaded.content
    assert f"`{run.id}`" in text
    assert f"{result.metric_value:.1f} % of 1,500 test questions" in text and "One training seed" in text


def test_a_set_of_the_hub_has_a_result_file_of_its_own(tmp_path: Path) -> None:
    from huggingface_hub import parse_eval_result_entries

    fabricated = train(Store(tmp_path), "direct")
    evaluate(fabricated, coin(0.5, 40, 1), task="gsm8k", task_title="GSM8K", key="gsm8k-test")
    evaluate(fabricated, coin(0.5, 40, 2), task="gsm8k", key="again", settings={"order": "shuffled"})
    evaluate(fabricated, coin(0.9, 40, 3), knob="votes", value=5, task="gsm8k")
    evaluate(fabricated, coin(0.7, 40, 4))  # generated: no hub knows it
    files = hub_results(fabricated)
    (text,) = files.values()
    (entry,) = parse_eval_result_entries(yaml.safe_load(text))
    right = sum(i.correct for i in fabricated.read_items("gsm8k-test"))
    assert list(files) == [".eval_results/gsm8k.yaml"] and entry.dataset_id == "openai/gsm8k"
    assert entry.value == pytest.approx(100 * right / 40, abs=0.005) and "40 questions, seed 0" in entry.notes
