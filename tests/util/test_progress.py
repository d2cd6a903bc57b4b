"""What a command says of work that takes longer than a moment."""

from __future__ import annotations

import threading
import time

import pytest

from rim_bench.util import console, progress
from rim_bench.util.console import RichReporter
from rim_bench.util.progress import Phase, TrainingStep, phase, watched


def until(condition: object, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.005)


def test_long_work_is_said_in_a_pipe_and_short_work_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.05)
    monkeypatch.setattr(progress, "TICK", 0.01)
    monkeypatch.setattr(console, "QUIET", 0.1)
    reporter, threads = RichReporter(), threading.active_count()
    with watched(lambda: reporter), phase("working"):
        with phase("reading at once"):
            pass
        with phase("answering [x] \x1b") as answering:
            answering.advance(64, 500)
            until(lambda: reporter.waited > answering.began)
            first = reporter.waited
            until(lambda: reporter.waited > first)
        reporter.training("rim", TrainingStep(1, 40, "grounding", 0.5, 9.0, 3.0))  # its own first line, all the same
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == lines[1] == "... answering [x] \\x1b (64/500, 0 s)" and lines[-1].startswith("train rim  1/40")
    assert not any("at once" in line for line in lines) and threading.active_count() == threads


def test_a_terminal_has_a_bar_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    reporter = RichReporter()
    here = Phase("loading")
    reporter.under_way(here)
    reporter.under_way(here)
    assert [task.description for task in reporter.bar.tasks] == ["loading"] and reporter.bar.live.is_started
    reporter.over(here)
    assert not reporter.bar.tasks and not reporter.bar.live.is_started


def test_an_error_is_told_the_innermost_phase() -> None:
    with pytest.raises(ValueError, match="no") as raised, phase("outer"), phase("inner"):
        raise ValueError("no")
    assert raised.value.__notes__ == ["while inner"]


def test_other_threads_and_library_use_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with phase("in a thread"):
            pass

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    with phase("without a display"):
        pass
    assert capsys.readouterr() == ("", "")
