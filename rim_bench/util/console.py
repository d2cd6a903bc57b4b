"""Progress on a terminal; plain lines where there is none."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from rim_bench.util.progress import Phase, TrainingStep, current_outlook, duration
from rim_bench.util.text import escape_terminal

MANY = 10.0  # examples a second, from which on they are told whole
QUIET = 20.0  # seconds between two lines where the output is not a terminal


def rate_text(examples_per_s: float) -> str:
    """A rate; one below one an example a second as seconds an example."""
    if examples_per_s >= MANY:
        return f"{examples_per_s:,.0f} examples/s"
    if examples_per_s >= 1:
        return f"{examples_per_s:.1f} examples/s"
    return f"{1 / max(1e-9, examples_per_s):.1f} s an example"


class _Count(MofNCompleteColumn):
    """How many of how many, where that is known."""

    def render(self, task: Task) -> Text:
        return Text("") if task.total is None else super().render(task)


class _Left(TimeRemainingColumn):
    """The time left, where that is known."""

    def render(self, task: Task) -> Text:
        return Text("") if task.total is None else super().render(task).append(" left")


class RichReporter:
    """Draws stage, loss, examples/s and the time left, and phases that take longer than a moment."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.live = self.console.is_terminal
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=12),
            _Count(),
            TextColumn("{task.fields[detail]}", markup=False),
            _Left(),
            console=self.console,
            disable=not self.live,
        )
        self.task: tuple[str, TaskID] | None = None
        self.phase: tuple[Phase, TaskID] | None = None
        self.last = 0.0  # when a line of this run's progress was printed
        self.waited = 0.0  # when a line about a phase was
        self.entered = False

    def __enter__(self) -> RichReporter:
        self.bar.live.transient = False
        self.bar.start()
        self.entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        self.entered = False

    def note(self, text: str) -> None:
        self.console.print(escape_terminal(text), highlight=False, markup=False, soft_wrap=True)

    def training(self, run: str, progress: TrainingStep) -> None:
        detail = f"{progress.stage}  loss {progress.loss:.4f}  {rate_text(progress.examples_per_s)}"
        self._show(f"train {run}", progress.step, progress.steps, detail, progress.seconds_left)

    def evaluating(self, run: str, done: int, total: int) -> None:
        self._show(f"evaluate {run}", done, total, "", None)

    def finished(self, run: str) -> None:
        if self.task is not None:
            what, number = self.task
            shown = next(t for t in self.bar.tasks if t.id == number)
            self.bar.remove_task(number)
            self.task = None
            self.note(f"{what}  {shown.completed:.0f}/{shown.total:.0f}  {shown.fields['detail']}".rstrip())
        self.last = 0.0

    def under_way(self, phase: Phase) -> None:
        what, seconds = escape_terminal(phase.what), time.monotonic() - phase.began
        if self.live:
            if self.phase is None or self.phase[0] is not phase:
                if self.phase is not None:
                    self.over(self.phase[0])
                if not self.entered:
                    self.bar.live.transient = True
                    self.bar.start()
                self.phase = (phase, self.bar.add_task(what, total=None, detail=""))
            number, total = self.phase[1], phase.total or None
            detail = f"{seconds:.0f} s  {_overall()}".rstrip()
            self.bar.update(number, completed=phase.done, total=total, detail=detail)
        elif (last := max(self.last, self.waited)) < phase.began or time.monotonic() - last > QUIET:
            self.waited = time.monotonic()
            count = f"{phase.done}/{phase.total}, " if phase.total else ""
            left = seconds / phase.done * (phase.total - phase.done) if 0 < phase.done < phase.total else 0.0
            after = [f", {duration(left)} left" if left >= 1 else "", f"; {_overall()}" if _overall() else ""]
            self.note(f"... {what} ({count}{seconds:.0f} s{''.join(after)})")

    def over(self, phase: Phase) -> None:
        if self.phase is not None and self.phase[0] is phase:
            self.bar.remove_task(self.phase[1])
            self.phase = None
            if not self.entered:
                self.bar.stop()

    def _show(self, what: str, done: int, total: int, detail: str, left: float | None) -> None:
        whole = _overall()
        what, detail = escape_terminal(what), escape_terminal(detail)
        if self.live:
            detail = f"{detail}  {whole}".strip()
        if self.live:
            if self.task is None or self.task[0] != what:
                if self.task is not None:
                    self.bar.remove_task(self.task[1])
                self.task = (what, self.bar.add_task(what, total=total, detail=detail))
            self.bar.update(self.task[1], completed=done, detail=detail)
        elif done == total or time.monotonic() - self.last > QUIET:
            self.last = time.monotonic()
            eta = "" if left is None else f"  {left:.0f} s left"
            eta += f"  ({whole})" if whole and done < total else ""
            self.note(f"{what}  {done}/{total}  {detail}{eta}".rstrip())


def _overall() -> str:
    """What there is to say of the whole command."""
    here = current_outlook()
    return "" if here is None else here.text()
