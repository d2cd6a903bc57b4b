"""Where a run's progress goes, and what a command says of work that takes longer than a moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

PATIENCE = 2.0  # seconds that a phase takes before anything is said of it
TICK = 0.25  # seconds between two looks


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """One optimizer step, for display."""

    step: int
    steps: int
    stage: str
    loss: float
    examples_per_s: float
    seconds_left: float


class Reporter(Protocol):
    """Where progress goes; the command line draws it."""

    def note(self, text: str) -> None: ...
    def training(self, run: str, progress: TrainingStep) -> None: ...
    def evaluating(self, run: str, done: int, total: int) -> None: ...
    def finished(self, run: str) -> None: ...


class Silent:
    """A reporter that says nothing."""

    def note(self, text: str) -> None:
        pass

    def training(self, run: str, progress: TrainingStep) -> None:
        pass

    def evaluating(self, run: str, done: int, total: int) -> None:
        pass

    def finished(self, run: str) -> None:
        pass


@dataclass(eq=False)
class Phase:
    """Work under way, such as "loading gpt2".

    Attributes:
        began: on the monotonic clock.
        total: what `done` counts up to; 0 where nothing is counted.
    """

    what: str
    began: float = field(default_factory=time.monotonic)
    done: int = 0
    total: int = 0
    shown: bool = False

    def advance(self, done: int, total: int) -> None:
        """Says how far it is."""
        self.done, self.total = done, total


class Display(Protocol):
    """What shows phases."""

    def under_way(self, phase: Phase) -> None: ...  # several times a second
    def over(self, phase: Phase) -> None: ...


class Outlook:
    """How far a command of several cells is, and about how long it still takes.

    Args:
        cells: by the cell's id, how much of each kind of work it has, such as examples to train on.
    """

    def __init__(self, cells: Mapping[str, Mapping[str, int]]) -> None:
        self.cells = {name: dict(work) for name, work in cells.items()}
        self.here: str | None = None
        self.entered: set[str] = set()
        self.seconds: dict[str, float] = {}  # of a unit of each kind, as last measured
        self.estimated = False  # whether the time for all of it was said

    def enter(self, cell: str) -> None:
        """Work on this cell begins, or goes on, and that on the one before is done.

        A cell that is not known is what became of the first that was not entered, such as at a tuned learning rate.
        """
        if cell == self.here:
            return
        if self.here is not None:
            self.cells[self.here] = {}
        if cell not in self.cells and (waiting := [name for name in self.cells if name not in self.entered]):
            self.cells[cell] = self.cells.pop(waiting[0])
        self.cells.setdefault(cell, {})
        self.here = cell
        self.entered.add(cell)

    def advance(self, kind: str, left: int, seconds: float) -> None:
        """So much of a kind of work is left in this cell, and a unit of it takes `seconds`."""
        if self.here is not None:
            self.cells[self.here][kind] = left
            self.seconds[kind] = seconds

    @property
    def left(self) -> float | None:
        """Seconds of what is left in all cells, at what was measured; None where nothing was.

        A kind of work that no cell has done yet is taken to be as slow as the slowest that was measured.
        """
        if not self.seconds:
            return None
        slowest = max(self.seconds.values())
        return sum(n * self.seconds.get(kind, slowest) for work in self.cells.values() for kind, n in work.items())

    def text(self) -> str:
        """Which cell it is at and what is left: "cell 2 of 6, about 12 min left in all"."""
        if self.here is None:
            return ""
        left = self.left
        parts = [f"cell {len(self.entered)} of {len(self.cells)}"] if len(self.cells) > 1 else []
        return ", ".join([*parts, *([] if left is None else [f"about {duration(left)} left in all"])])


def duration(seconds: float) -> str:
    """Seconds in the unit that people take: "40 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


_outlooks: list[Outlook] = []


@contextmanager
def outlook(cells: Callable[[], Mapping[str, Mapping[str, int]]]) -> Iterator[Outlook]:
    """Within, the command has these cells; an outlook that is open already stays the command's."""
    if _outlooks:
        yield _outlooks[0]
        return
    _outlooks.append(Outlook(cells()))
    try:
        yield _outlooks[0]
    finally:
        _outlooks.clear()


def enter_cell(name: str) -> None:
    """Work on a cell of the command begins, or goes on."""
    if _outlooks:
        _outlooks[0].enter(name)


def current_outlook() -> Outlook | None:
    """The command's, where one is open."""
    return _outlooks[0] if _outlooks else None


_lock = threading.Lock()  # of the two below
_phases: list[Phase] = []  # each inside the one before
_displays: list[Callable[[], Display]] = []


@contextmanager
def phase(what: str) -> Iterator[Phase]:
    """Names the work within, which is shown where it takes longer than PATIENCE; an error in it is told the name.

    Args:
        what: a gerund, as in "loading gpt2".
    """
    here = Phase(what)
    if threading.current_thread() is not threading.main_thread():
        yield here
        return
    with _lock:
        _phases.append(here)
    try:
        yield here
    except Exception as error:
        if not hasattr(error, "__notes__"):
            error.add_note(f"while {what}")
        raise
    finally:
        with _lock:
            _phases.remove(here)
            if len(_phases) == 1:
                _phases[0].began = time.monotonic()  # what is between two phases of a command is timed by itself
            if here.shown:
                _displays[-1]().over(here)


@contextmanager
def watched(display: Callable[[], Display]) -> Iterator[None]:
    """Within, the innermost phase is shown from when it has taken PATIENCE.

    Args:
        display: returns what shows it; not called before there is something to show.
    """
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(TICK):
            with _lock:
                if _phases and time.monotonic() - _phases[-1].began > PATIENCE:
                    _phases[-1].shown = True
                    display().under_way(_phases[-1])

    _displays.append(display)
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()  # one that still writes while the interpreter ends would abort it
        _displays.remove(display)
