"""Inference curves: the knob of each trained run is turned, and every setting evaluated and stored as a point.

A method with an effort field turns that; one without answers several times and votes, and one that writes a chain is
also cut short. A sweep goes on where it was stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean as mean
from typing import Any

from rim_bench.engine.execution import ALONE, ExecutionContext
from rim_bench.evaluate.evaluation import EvaluationRequest, evaluated
from rim_bench.evaluate.options import StoredRunOptions
from rim_bench.evaluate.self_consistency import sampling_of, votes_record
from rim_bench.evaluate.stored_runs import LoadedRun, check_used, stored_request
from rim_bench.methods.method import MOST, Method
from rim_bench.methods.registry import method_of
from rim_bench.storage.records import EvaluationRecord, ItemRecord
from rim_bench.storage.run_folder import Run
from rim_bench.util.errors import UsageError, cannot_apply, check_count, unknown
from rim_bench.util.files import canonical
from rim_bench.util.flags import refuse_unused
from rim_bench.util.progress import Reporter, Silent

VOTES = (3, 5, 9)
"""Odd, so that two answers cannot tie; each about twice the last, so that points are even on a log axis of FLOPs."""
SHARES = (0.25, 0.5, 0.75)  # of the mean and of the largest length, where chains are cut
LEAST = {"votes": 2, "max_tokens": 1}  # smallest values of the knobs that are not a method's own (those take 0)
Knobs = Mapping[str, Sequence[int]]
"""Values by knob. `rim.votes` is meant for that method alone, and adds a knob that it would not turn by itself."""


@dataclass(frozen=True)
class SweepPoint:
    """One stored point of a curve; `name` is None for the default evaluation, which every curve of the run shares."""

    run: Run
    label: str
    name: str | None
    value: int | None
    key: str
    summary: EvaluationRecord


def sweep(
    runs: Sequence[Run],
    options: StoredRunOptions,
    reporter: Reporter | None = None,
    *,
    knobs: Knobs | None = None,
    execution: ExecutionContext = ALONE,
) -> list[SweepPoint]:
    """All points of the runs' curves, each run's default evaluation first; what is stored is not evaluated again.

    Args:
        runs: shared starts among them are left out.
        options: of its fields those that `rim-bench sweep` has; `temperature` and `sample_seed` are those of votes.
        knobs: values instead of the default ones.

    Raises:
        UsageError: a knob that no run has, values that make no sense, or no trained run.
    """
    reporter = reporter or Silent()
    sampling_of(2, options.temperature, options.sample_seed)  # refuses what does not fit before anything is done
    arms = [run for run in runs if not run.spec.is_start and run.spec.kept_apart is None]
    trained = [run for run in arms if run.trained]
    if not trained:
        raise UsageError("none of these runs is trained, so there is nothing to sweep: `rim-bench run` trains")
    methods = [method_of(run.spec.method) for run in trained]
    _check_knobs(knobs or {}, methods)
    check_used(trained, options)
    drawn = any(name.rpartition(".")[2] == "votes" for name in knobs or {})
    if not drawn and all(method.effort_field is not None for method in methods):
        refuse_unused(options, "temperature sample_seed", "no votes are drawn: each of these runs turns its own knob")
    for run in arms:
        if run not in trained:
            reporter.note(f"{run.id}: not trained, left out")
    turned = [_Arm(run, stored_request(run, options), options, reporter, execution) for run in trained]
    lengths: dict[str, list[int]] = {}
    caps: dict[str, set[int]] = {}
    for arm in turned:
        lengths.setdefault(arm.family, []).extend(arm.start())
        caps.setdefault(arm.family, set()).update(arm.stored_caps())
    out: list[SweepPoint] = []
    for arm in turned:
        with arm.run.lock():
            out += arm.sweep(knobs or {}, lengths[arm.family], caps[arm.family])
    return out


def effort_values(default: int) -> tuple[int, ...]:
    """0, 1, half, one and a half and two times a method's own effort, rounded up, without the effort itself."""
    values = {0, 1, (default + 1) // 2, (3 * default + 1) // 2, 2 * default}
    return tuple(sorted(values - {default}))


def cap_values(lengths: Sequence[int]) -> tuple[int, ...]:
    """Caps at SHARES of the mean and of the largest of these lengths; none that would cut nothing."""
    caps = {max(1, round(share * whole)) for share in SHARES for whole in (mean(lengths), max(lengths))}
    return tuple(sorted(c for c in caps if c < max(lengths)))


def _check_knobs(knobs: Knobs, methods: Sequence[Method]) -> None:
    fields = {m.effort_field for m in methods if m.effort_field is not None}
    names = {m.name for m in methods}
    for knob, values in knobs.items():
        method, dot, name = knob.rpartition(".")
        if dot and method not in names:
            raise unknown("method of these runs", method, names)
        has = {m.effort_field for m in methods if m.name == method} - {None} if dot else fields
        if name not in (allowed := {*LEAST, *(str(h) for h in has)}):
            raise unknown("knob of these runs", name, allowed)
        if not dot and name in LEAST and all(m.effort_field is not None for m in methods):
            why = f"each of these methods turns its own knob; of one of them it is --knob {methods[0].name}.{name}=..."
            raise cannot_apply(f"--knob {knob}", why)
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int) or value < LEAST.get(name, 0):
                raise UsageError(
                    f"knob {knob}: value {value!r} must be a whole number of at least {LEAST.get(name, 0)}"
                )
            check_count(f"knob {knob}: value", value, 0, MOST)


class _Arm:
    """One run being swept. Its model is loaded when first needed.

    A point of a curve needs every training seed at the same value. So values that follow from answers follow from those
    of the whole family: the runs of one method on one backbone and the same questions, with any seed and budget.
    """

    def __init__(
        self,
        run: Run,
        request: EvaluationRequest,
        options: StoredRunOptions,
        reporter: Reporter,
        execution: ExecutionContext,
    ) -> None:
        self.run, self.request, self.options, self.reporter = run, request, options, reporter
        self.subject = LoadedRun(run, options.device, options.data, execution)
        self.method = method_of(run.spec.method)
        seed = run.spec.seed
        self.label = run.spec.method.title + (f", seed {seed}" if seed else "")
        self.family = canonical([run.spec.method, run.spec.backbone, request.key()])

    def start(self) -> list[int]:
        """Evaluate the default setting if that is not stored; returns the lengths of its answers."""
        with self.run.lock():
            point = self._evaluate(self.request, None, None)
        self.subject.unload()  # not all models at once
        return [i.generated_tokens for i in self.run.read_items(point.key) if not i.overlong]

    def stored_caps(self) -> set[int]:
        """Caps of points that an earlier sweep stored, perhaps of fewer seeds: the others need them too."""
        default = self.run.evaluation(self.request.key()) or EvaluationRecord()
        same = ("task", "task_version", "split", "data_sha256", "evaluator_version", "limit")
        return {
            int(stored.knob.value)
            for stored in self.run.evaluations().values()
            if stored.curve and stored.knob is not None and stored.knob.name == "max_tokens"
            if all(getattr(stored, k) == getattr(default, k) for k in same)
        }

    def sweep(self, knobs: Knobs, lengths: Sequence[int], caps: set[int]) -> list[SweepPoint]:
        """The default evaluation and every point, in order; what is stored is not evaluated again.

        Args:
            lengths: of all answers of the family, in tokens.
            caps: that the family has points of.
        """
        out = [self._evaluate(self.request, None, None)]
        items = self.run.read_items(out[0].key)
        for name, values in self._values(knobs, lengths, caps).items():
            new = 0
            for value in values:
                if refusal := self._refusal(name, value, items):
                    self.reporter.note(f"{self.label}: {name} = {value} is left out: {refusal}")
                    continue
                turned: dict[str, Any] = {"max_tokens": value, "capped": True}
                if name == self.method.effort_field:
                    turned = {"effort": value}
                elif name != "max_tokens":
                    drawn = sampling_of(value, self.options.temperature, self.options.sample_seed)
                    assert drawn is not None
                    turned = votes_record(drawn)
                request = replace(self.request, curve=True, **turned)
                new += evaluated(self.run, request) is None
                out.append(self._evaluate(request, name, value))
            done = sum(p.name == name for p in out)
            if done:
                self.reporter.note(
                    f"{self.label}: {done} points of {name}" + (f", {done - new} there already" if new < done else "")
                )
        return out

    def _evaluate(self, request: EvaluationRequest, name: str | None, value: int | None) -> SweepPoint:
        shown = self.label if name is None else f"{self.label} {name}={value}"
        summary = self.subject.evaluate(request, shown, self.reporter)
        return SweepPoint(self.run, self.label, name, value, request.key(), summary)

    def _values(self, knobs: Knobs, lengths: Sequence[int], caps: set[int]) -> dict[str, tuple[int, ...]]:
        """The knobs that are turned, each with its values but the default one."""
        field = self.method.effort_field
        usual = None if field is None else getattr(self.method, field, None)
        out: dict[str, tuple[int, ...]] = {}
        if field is None:
            out["votes"] = VOTES
            if lengths and mean(lengths) > 2 * mean(self._answer_lengths):
                out["max_tokens"] = (*caps, *cap_values(lengths))
        elif isinstance(usual, int) and not isinstance(usual, bool):
            out[field] = effort_values(usual)
        else:
            self.reporter.note(
                f"{self.label}: {field} has no whole number as its default: give its values (--knob {field}=...)"
            )
            out[field] = ()
        out |= {name: tuple(knobs[name]) for name in out if name in knobs}
        prefix = f"{self.method.name}."
        out |= {knob.removeprefix(prefix): tuple(values) for knob, values in knobs.items() if knob.startswith(prefix)}
        same: dict[str | None, Any] = {"max_tokens": self.request.max_tokens, field: usual}
        return {name: tuple(sorted({v for v in values if v != same.get(name)})) for name, values in out.items()}

    @cached_property
    def _answer_lengths(self) -> list[int]:
        """Of each question the tokens of `#### `, the reference answer and the end: what an answer needs at least."""
        encode = self.subject.trained.backbone.encode_example
        return [len(encode(e).answer) for e in self.request.dataset().examples]

    def _refusal(self, name: str, value: int, items: Sequence[ItemRecord]) -> str | None:
        """Why a value cannot be evaluated: the method does not take it, or questions that fitted would no longer."""
        if name != self.method.effort_field:
            return None
        try:
            self.method.lay_prompt((0,), value)
        except UsageError as error:
            return str(error)
        positions = self.subject.trained.backbone.max_positions
        lengths = Counter((i.prompt_tokens, answer) for i, answer in zip(items, self._answer_lengths, strict=True))

        def crowded(effort: int | None) -> int:  # the last token of an answer is never fed
            return sum(
                n
                for (size, a), n in lengths.items()
                if self.method.lay_prompt((0,) * size, effort).depth + a - 1 > positions
            )

        more = crowded(value) - crowded(None)
        if more <= 0:
            return None
        return (
            f"{more} questions more than at its default would not fit into the model's {positions} positions with "
            "their answers"
        )
