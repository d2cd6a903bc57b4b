"""Where a run's progress goes, and what a command says of work that takes longer than a moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
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
