"""Progress on a terminal; plain lines where there is none."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from rim_bench.util.progress import TrainingStep
from rim_bench.util.text import escape_terminal

QUIET = 20.0  # seconds between two lines where the output is not a terminal


class RichReporter:
    """Draws stage, loss, examples/s and the time left."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.live = self.console.is_terminal
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            disable=not self.live,
        )
        self.task: tuple[str, TaskID] | None = None
        self.last = 0.0

    def __enter__(self) -> RichReporter:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def note(self, text: str) -> None:
        self.console.print(escape_terminal(text), highlight=False, markup=False, soft_wrap=True)

    def training(self, run: str, progress: TrainingStep) -> None:
        detail = f"{progress.stage}  loss {progress.loss:.4f}  {progress.examples_per_s:,.0f} examples/s"
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

    def _show(self, what: str, done: int, total: int, detail: str, left: float | None) -> None:
        what, detail = escape_terminal(what), escape_terminal(detail)
        if self.live:
            if self.task is None or self.task[0] != what:
                if self.task is not None:
                    self.bar.remove_task(self.task[1])
                self.task = (what, self.bar.add_task(what, total=total, detail=detail))
            self.bar.update(self.task[1], completed=done, detail=detail)
        elif done == total or time.monotonic() - self.last > QUIET:
            self.last = time.monotonic()
            eta = "" if left is None else f"  {left:.0f} s left"
            self.note(f"{what}  {done}/{total}  {detail}{eta}".rstrip())
