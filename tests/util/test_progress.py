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
    first_line, second_line = "... answering [x] \\x1b (64/500, 0 s", "... answering [x] \\x1b (64/500, "
    assert lines[0].startswith(first_line) and lines[1].startswith(second_line)
    assert lines[-1].startswith("train rim  1/40")
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


def test_an_outlook_counts_cells_and_what_they_still_take() -> None:
    here = progress.Outlook({"a": {"train": 10, "answer": 4}, "b": {"train": 20, "answer": 4}, "c": {"train": 5}})
    assert here.text() == "" and here.left is None
    here.enter("a")
    assert here.text() == "cell 1 of 3"
    here.advance("train", 6, 2.0)  # questions, of which none was answered yet, are taken to be as slow
    assert here.left == (6 + 20 + 5 + 4 + 4) * 2.0 and here.text() == "cell 1 of 3, about 78 s left in all"
    here.advance("answer", 0, 0.5)
    assert here.left == (6 + 20 + 5) * 2.0 + 4 * 0.5
    here.enter("b")
    assert here.left == 25 * 2.0 + 4 * 0.5 and here.text().startswith("cell 2 of 3")
    here.enter("c at another rate")
    assert here.left == 5 * 2.0 and here.text().startswith("cell 3 of 3")


def test_a_command_has_one_outlook_and_lines_say_it(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = RichReporter()
    with progress.outlook(lambda: {"a": {"train": 90}, "b": {"train": 100}}) as whole:
        with progress.outlook(lambda: {"other": {}}) as same:
            assert same is whole
        progress.enter_cell("a")
        whole.advance("train", 80, 10.0)
        reporter.training("rim", TrainingStep(1, 40, "grounding", 0.5, 0.1, 3.0))
        reporter.last = reporter.waited = 0.0
        here = Phase("answering", began=time.monotonic() - 10, done=1, total=3)
        reporter.under_way(here)
    assert progress.current_outlook() is None
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("10.0 s an example  3 s left  (cell 1 of 2, about 30 min left in all)")
    assert second == "... answering (1/3, 10 s, 20 s left; cell 1 of 2, about 30 min left in all)"


@pytest.mark.parametrize(
    ("rate", "text"), [(812.4, "812 examples/s"), (4.25, "4.2 examples/s"), (0.4, "2.5 s an example")]
)
def test_no_rate_is_told_as_nothing(rate: float, text: str) -> None:
    assert console.rate_text(rate) == text


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (720, "12 min"), (12600, "3.5 h")])
def test_durations(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text
