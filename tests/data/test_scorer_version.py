"""What the scorer makes of many forms, pinned to its version: a change that moves a score must raise the version.

The store of scores is `scores.json` beside this file: a digest for each form, so that new forms change no old one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import pytest
from test_answers import NUMBERS, REFUSED, SCORES
from wrong_answers import wrong_answers

from rim_bench.data.answers import EVALUATOR_VERSION, Kind, canonical, lm_eval_flexible, lm_eval_strict, score

STORED = Path(__file__).with_name("scores.json")
STORE = "PYTHONPATH=tests/helpers python tests/data/test_scorer_version.py"
ADVICE = (
    "raise EVALUATOR_VERSION in rim_bench/data/answers.py, say there what changed, store the new scores with "
    f"`{STORE}`, and evaluate the runs of results/gate again and write its baseline.toml (docs/gate.md)"
)


class Form(NamedTuple):
    """One output and what it is scored against."""

    output: str
    reference: str
    kind: Kind

    @property
    def key(self) -> str:
        return hashlib.sha256(repr(tuple(self)).encode()).hexdigest()[:12]

    def digest(self) -> str:
        """Of all that is scored."""
        result = astuple(score(self.output, self.reference, kind=self.kind))
        lm_eval = lm_eval_strict(self.output, self.reference), lm_eval_flexible(self.output, self.reference)
        return hashlib.sha256(repr((result, lm_eval)).encode()).hexdigest()[:8]


def forms() -> list[Form]:
    """Every form of number that is read or refused, the table of scores, and the list of wrong outputs."""
    pairs = [(f"#### {text}", canonical(Fraction(value))) for text, value in NUMBERS]
    pairs += [(text, "18") for text in REFUSED] + [(f"#### {text}", text) for text in REFUSED]
    pairs += [(output, reference) for output, reference, *_ in SCORES]
    pairs += [(wrong.output, wrong.reference) for wrong in wrong_answers()]
    kinds: tuple[Kind, ...] = ("number", "text")
    return [Form(output, reference, kind) for output, reference in pairs for kind in kinds]


def moved(stored: dict[str, str]) -> list[Form]:
    """Forms that are scored otherwise than is stored."""
    return [form for form in forms() if stored.get(form.key, form.digest()) != form.digest()]


def test_scores_have_changed_only_with_their_version() -> None:
    stored = json.loads(STORED.read_text())
    assert stored["version"] == EVALUATOR_VERSION, f"scores.json is of version {stored['version']}: {ADVICE}"
    changed = moved(stored["scores"])
    assert not changed, f"{len(changed)} forms are scored otherwise than before, as {changed[0]}: {ADVICE}"
    new = [form for form in forms() if form.key not in stored["scores"]]
    assert not new, f"{len(new)} forms are new, as {new[0]}: store them with `{STORE}`"


def test_a_scorer_that_reads_one_form_otherwise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = json.loads(STORED.read_text())["scores"]
    parse = "rim_bench.data.answers.parse_number"
    monkeypatch.setattr(parse, lambda text: Fraction(18) if text.startswith("18") else None)
    assert len(moved(stored)) > 100
    monkeypatch.undo()
    monkeypatch.setattr("rim_bench.data.answers._LM_EVAL_INVALID", "18")
    assert moved(stored)


if __name__ == "__main__":
    before = json.loads(STORED.read_text()) if STORED.is_file() else {"version": "", "scores": {}}
    if before["version"] == EVALUATOR_VERSION and (changed := moved(before["scores"])):
        raise SystemExit(f"{len(changed)} forms are scored otherwise, as {changed[0]}: {ADVICE}")
    scores = {form.key: form.digest() for form in forms()}
    STORED.write_text(json.dumps({"version": EVALUATOR_VERSION, "scores": scores}, indent=0) + "\n")
