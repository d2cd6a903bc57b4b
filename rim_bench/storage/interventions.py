"""The records of interventions on a trained run, and the words that name them. `<run>/interventions/<key>/` holds them.

One item is one intervention with a value for every question that took part; the first, `clean`, is the model as it is,
and says which questions these are.
"""

# ruff: noqa: RUF009 (what `said` makes of a mutable default is a factory)

from __future__ import annotations

from dataclasses import dataclass

from rim_bench.storage.records import NEEDED, JsonRecord, RuntimeRecord, ScoringRecord, StoredItemsRecord, said

CLEAN = "clean"
# operations
OWN, DONOR, ZERO, MEAN, NOISE, PERMUTATION = "own", "donor", "zero", "mean", "noise", "permutation"
KNOCK_OUT, EARLY_EXIT, MORE, ORDINARY = "knock-out", "early exit", "more segments", "ordinary tokens"
SAME = "donor of the same "
SAME_ANSWER = f"{SAME}answer"
# sites
KEYS_AND_VALUES, RESIDUAL, PROMPT = "keys and values", "residual stream", "prompt"
ANSWER_SEES, SEGMENTS_SEE = "what the answer sees", "what segments see"
# segments
ALL, QUESTION, EVERYTHING = "all", "question", "question and all"


@dataclass(frozen=True, kw_only=True)
class AskedQuestionsRecord(JsonRecord):
    """The questions of a suite, in the order in which all items have them."""

    ids: tuple[str, ...] = said("id of each question", ())
    levels: tuple[str, ...] = said("level of difficulty, as the task names it", ())
    sources: tuple[str, ...] = said("source that several questions share; empty: its own", ())
    references: tuple[str, ...] = said("right answer", ())
    answers: tuple[str | None, ...] = said("the model's own answer, extracted; null: none", ())
    donors: tuple[int | None, ...] = said("number of the question whose activations it is given; null: none fits", ())
    as_evaluated: str = said("1 where the answer is also the one that evaluation has, which gives no mark", "")


@dataclass(frozen=True, kw_only=True)
class InterventionItem(JsonRecord):
    """One intervention: what it does to the answer to each question that took part."""

    id: str = said("all of it in a few words", NEEDED)
    operation: str = said("`clean`, `own`, `donor`, `zero`, `mean`, `noise 1 sd`, `knock-out` ...", "")
    site: str = said("where it is made", "")
    layer: int | None = said("layer, from 0; null: all")
    segments: str = said("which segments: `all`, a name, `up to NAME`, `from NAME`, `question`, or how many", "")
    asked: AskedQuestionsRecord | None = said("the questions; of the first item only", omit=True)
    questions: tuple[int, ...] | None = said("numbers of those that took part; missing: all", omit=True)
    correct: str = said("a 1 or 0 for each: whether the answer is right", "")
    changed: str = said("whether it is another one than the model's own", "")
    to_donor: str | None = said("whether it is the donor's; missing: there is none", omit=True)
    logprob: tuple[float, ...] = said("log-probability of the model's own answer, in nats", ())
    lead: tuple[float | None, ...] = said(
        "by how much that is above the log-probability of the donor's answer (of another question's, where nothing is "
        "a donor's): a difference of logits where answers are one token; null: no question fits",
        (),
    )


@dataclass(frozen=True, kw_only=True)
class InterventionRecord(JsonRecord):
    """The summary of a suite of interventions on a run."""

    schema: int = said("version of this format", 1)
    task: str = said("name of the task", "")
    task_title: str = said("its title in tables", "")
    task_version: int | str = said("its version", "")
    evaluator_version: int | str = said("version of the scorer", "")
    scoring: ScoringRecord | None = said("how answers were scored")
    date: str | None = said("when it was made, in UTC")
    split: str = said("`test` or `validation`", "")
    questions: int = said("number of questions", 0)
    ood_levels: tuple[str, ...] = said("levels that training never shows", (), omit=True)
    left_out: int = said("questions without a segment (no written steps), or too long for the model", 0)
    data_sha256: str = said("sha256 of the questions", "")
    data_source: str | None = said("where the questions come from")
    limit: int | None = said("questions that were allowed at most; null: all")
    quick: bool = said("a check of the plumbing, not a result", False)
    effort: int | None = said("the method's compute knob; null: its default")
    suite: str = said("`whole`, or `verdict`: what the verdict needs", "")
    donor_seed: int = said("seed that donors and noise are drawn from", 0)
    layers: int = said("layers of the model", 0)
    segments: tuple[str, ...] = said("segments between question and answer, of a question that has most", ())
    max_tokens: int | None = said("most tokens of an answer")
    batch_size: int | None = said("questions computed together")
    dtype: str | None = said("number type")
    device: str | None = said("kind of device")
    weights_sha256: str | None = said("sha256 of the weights")
    flops: int | None = said("executed FLOPs of all interventions, the model's own answers included")
    seconds: float | None = said("seconds of all of them, of the last start")
    processes: int | None = said("processes that computed; missing: one", omit=True)
    runtime: RuntimeRecord | None = said("what times depend on beside the method")
    n: int = said("number of items", 0)
    stored_items: StoredItemsRecord | None = said("the file of the items", key="items")
