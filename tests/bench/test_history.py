"""The stored history of measurements: what lies there is documented, never replaced, and the page is made of nothing
else.
"""

from __future__ import annotations

import copy
import dataclasses
import errno
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import torch
from markdown_it import MarkdownIt

from rim_bench.bench import history
from rim_bench.bench.arms import Bench
from rim_bench.bench.measure import Request, measure
from rim_bench.bench.record import FIELDS, Line, Measured, Spread, Target, record, undocumented
from rim_bench.bench.report import table
from rim_bench.bench.scaling import KNOBS, Knob, answer_flops, lengthened, parse_values
from rim_bench.bench.session import Watch
from rim_bench.bench.targets import NUMBERS, parse_only
from rim_bench.report.plots.scaling import scaling_picture, scaling_pictures
from rim_bench.runs.options import Options
from rim_bench.util.errors import UsageError

Call = Callable[..., tuple[int, str, str]]
RESULTS = Path(__file__).parents[2] / "results" / "bench"

MACHINE: dict[str, Any] = {
    "python": "3.11.9",
    "platform": "Linux x86_64 glibc 2.36",
    "cpu": {"model": "AMD EPYC 9R14", "cores": 2, "usable_cores": 2},
    "memory_bytes": 8_000_000_000,
    "gpu": None,
    "packages": {"torch": "2.13.0", "transformers": "5.23.0", "numpy": "2"},
    "git": {"commit": "0123456789abcdef", "dirty": False},
    "argv": ["rim-bench", "bench", "train"],
    "date": "2026-01-31T12:00:00+00:00",
    "device": "cpu",
    "dtype": "float32",
    "threads": 1,
    "load_before": 0.1,
    "load_after": 1.0,
    "cpu_share": 0.99,
    "others_cores": 0.0,
    "busy": False,
}
SETTING: dict[str, Any] = {
    "task": "gsm8k",
    "embedded": False,
    "train_sha256": "ab",
    "train_rows": 7,
    "mean_tokens": {"question": 60.0, "chain": 20.0},
    "backbone": {"name": "bench-gpt2", "kind": "scratch", "layers": 6, "width": 256},
    "parameters": 7_000_000,
    "batch_size": 32,
    "micro_batch": 16,
    "methods": {"cot": {}},
    "start": "recipe",
}


def made(measurement: str = "train", machine: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A record as a measurement gives it, without one."""
    ours, theirs = Spread((10.0, 12.0, 11.0)), Spread((5.0, 4.0, 5.0))
    line = Line(
        "cot", "plain cot loop", "examples/s", ours, theirs, ours / theirs, {"padding": Spread((0.1, 0.2, 0.3))}
    )
    found = Measured(
        **{"lines": (line,), "peak": Spread((9e10, 8e10, 9e10)), "cpu_share": 0.99, "setting": SETTING, **changes}
    )
    return record(measurement, 3, found, {**MACHINE, **(machine or {})}, 12.34)


def test_every_field_is_documented_and_every_document_has_its_field() -> None:
    curve = {
        "method": "rim",
        "work": "training",
        "seconds": [Spread((1.0,)).data()] * 2,
        "flops": [1, 2],
        "gflops": [1.0, 2.0],
    }
    target = Target("1", "training", "plain loop", Spread((2.0,)), 1.5, "at least")
    whole = made(targets=(target,), scaling={"vary": "K", "values": [1, 2], "curves": [curve]})
    assert undocumented(whole) == []
    assert undocumented({**whole, "setting": {**SETTING, "colour": 1}}) == ["setting.colour"]

    def paths(value: Any, above: str = "") -> set[str]:
        if isinstance(value, list):
            return {p for part in value for p in paths(part, above)}
        inner = value.items() if isinstance(value, dict) else ()
        known = {f"{above}{key}": part for key, part in inner if f"{above}{key}" in FIELDS}
        return known.keys() | {p for path, part in known.items() for p in paths(part, f"{path}.")}

    assert paths(whole) == FIELDS.keys() - {"spread"}


def test_the_page_is_rebuilt_from_the_files_byte_for_byte(tmp_path: Path) -> None:
    first = history.add(made(), tmp_path)
    assert first.name == "20260131T120000Z_0123456_amd-epyc-9r14_train.json"
    later = made("eval", {"date": "2026-02-01T08:00:00+00:00", "busy": True, "cpu_share": 0.7, "git": None})
    second = history.add(later, tmp_path)
    assert second.name == "20260201T080000Z_unknown_amd-epyc-9r14_eval.json"
    page = (tmp_path / history.PAGE).read_text("utf-8")
    assert page == history.page(history.stored(tmp_path)) and page.index("eval") < page.index("20260131T120000Z")
    assert "| cot | 11 (10-12) | plain cot loop | 5 (4-5) | 2.20 (2.00-3.00) | 20.0 % |" in page
    assert page.count("BUSY MACHINE") == 1 and json.loads(first.read_text()) == made()


def test_the_page_shows_hostile_text_and_runs_none() -> None:
    text = "<script>x</script> `` [a](javascript:b) \x1b]0;t\x07\n# c"
    found = made(machine={"argv": ["rim-bench", "bench", text], "packages": {"torch": text}})
    page = history.page([(f"{text}.json", found)])
    tokens = MarkdownIt().enable("table").parse(page)
    inline = [child for token in tokens for child in token.children or ()]
    assert not {t.type for t in (*tokens, *inline)} & {"html_block", "html_inline", "em_open", "image"}
    assert [t.attrs["href"] for t in inline if t.type == "link_open"] == [f"{quote(text)}.json"]
    assert any("bench <script>x</script> ``" in t.content for t in inline if t.type == "code_inline")
    assert "\x1b" not in page and page.count("\n# ") == 0


def test_a_stored_measurement_is_never_replaced(tmp_path: Path) -> None:
    path = history.add(made(), tmp_path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="never replaced"):
        history.add({**made(), "rounds": 4}, tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("links", [True, False])
def test_a_process_that_is_killed_while_it_stores_blocks_nothing(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is there only with the whole file behind it; on file systems without links it is not replaced either."""

    def unsupported(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    class Killed(BaseException):
        pass

    def killed(path: Path, told: dict[str, Any]) -> None:
        path.write_text("{")
        assert not list(tmp_path.glob("*.json"))  # nobody who lists the folder finds a part
        raise Killed

    if not links:
        monkeypatch.setattr("os.link", unsupported)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(history, "write_json_atomic", killed)
        patch.setattr(Path, "unlink", unsupported)  # nor is anything tidied up
        history.add(made(), tmp_path)
    (left,) = tmp_path.iterdir()
    path = history.add(made(), tmp_path)
    with pytest.raises(UsageError, match="never replaced"):
        history.add({**made(), "rounds": 4}, tmp_path)
    assert json.loads(path.read_text()) == made()
    assert set(tmp_path.iterdir()) == {left, path, path.with_suffix(history.HASH), tmp_path / history.PAGE}
    assert [name for name, _ in history.stored(tmp_path)] == [path.name]


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        (b"", "is damaged: Expecting value"),
        (b'{"schema": "\xff"}', "is damaged: 'utf-8' codec"),
        (b"[]", "it holds a list"),
        (json.dumps({k: v for k, v in made().items() if k != "machine"}).encode(), "fields are missing ('machine')"),
        (json.dumps(made() | {"lines": [{"what": "cot"}]}).encode(), "fields are missing"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_and_left_out(
    damaged: bytes, reason: str, call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "20250101T000000Z_broken.json").write_bytes(damaged)
    path = history.add(made(), tmp_path)  # what was measured is stored all the same
    told = capsys.readouterr().err
    assert told.startswith("left out: ") and "broken.json" in told and reason in told and told.count("\n") == 1
    code, text, err = call("bench", "history", "--out", tmp_path)
    assert code == 0 and err == told and path.name in text and "broken" not in text
    assert text == (tmp_path / history.PAGE).read_text("utf-8")
    with pytest.raises(UsageError, match="broken"):
        history.stored(tmp_path)


def test_what_is_no_measurement_is_refused(tmp_path: Path) -> None:
    history.add(made(), tmp_path)
    (tmp_path / "other.json").write_text('{"schema": 1, "measurement": "dreams"}')
    with pytest.raises(UsageError, match=r"other\.json"):
        history.stored(tmp_path)
    (tmp_path / "other.json").write_text(json.dumps({**made(), "mood": "good"}))
    with pytest.raises(UsageError, match="it has mood"):
        history.stored(tmp_path)


def test_the_repository_shows_what_its_measurements_say() -> None:
    if not RESULTS.is_dir():
        pytest.skip("no measurement is stored in the repository")
    found = history.stored(RESULTS)
    assert found and (RESULTS / history.PAGE).read_text("utf-8") == history.page(found)
    for name, told in found:
        assert history.file_name(told) == name
        if told["scaling"] is not None:
            assert (RESULTS / name).with_suffix(".svg").is_file() and (RESULTS / name).with_suffix(".png").is_file()


def test_a_machine_that_others_use_is_said_to_be_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([100.0, 101.0])
    monkeypatch.setattr("rim_bench.bench.session.all_cpu_seconds", lambda: next(seconds))
    monkeypatch.setattr("rim_bench.bench.session.own_cpu_seconds", lambda: 0.0)
    clock = iter([10.0, 12.0])
    monkeypatch.setattr("rim_bench.bench.session.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr("sys.argv", ["rim-bench", "bench", "--data", "/home/me", "--json=/tmp/x", "--record"])
    watch = Watch(torch.device("cpu"))
    told = watch.finish(1.0)
    assert told.others_cores == 0.5 and told.busy
    assert told.argv == ["rim-bench", "bench", "--data", "DIR", "--json=DIR", "--record"]
    text = table(made(machine={**dataclasses.asdict(told), "git": None})).to_markdown()
    assert "BUSY MACHINE: other processes used 0.5 cores, this one ran 100 % of the timed seconds" in text


def test_a_target_holds_by_its_median() -> None:
    at_least = Target("1", "speed", "plain loop", Spread((1.4, 1.5, 9.0)), 1.5, "at least", detail="5/s")
    at_most = Target("5", "padding", "all", Spread((0.05, 0.11, 0.2)), 0.1, "at most", unit="share")
    assert at_least.holds and not at_most.holds and Target("5", "", "", Spread((0.05, 0.1, 0.2)), 0.1, "at most").holds
    told = made("targets", lines=(), targets=(at_least, at_most))
    rows = table(told).sections[0].panels[0].rows
    assert rows[0][3:6] == ("1.50 (1.40-9.00)", "at least 1.50", "yes")
    assert rows[1][3:6] == ("11.0 % (5.0-20.0 %)", "at most 10.0 %", "NO")
    assert "| 1 | speed | plain loop |" in table(told).to_markdown() and "\n1: 5/s.  \n" in table(told).to_markdown()
    assert parse_only("1, 4") == ("1", "4") and parse_only(None) == NUMBERS
    with pytest.raises(UsageError, match="'11'"):
        parse_only("1,11")


# Scaling


@pytest.fixture(autouse=True)
def no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second for a number that no test here is about."""
    monkeypatch.setattr("rim_bench.bench.session.matrix_peak", lambda *of: 1e11)


def small(**changes: Any) -> Options:
    backbone = {"width": 16, "layers": 1, "heads": 2}
    given: dict[str, Any] = {
        "methods": KNOBS["K"].methods,
        "task": "chain",
        "limit": 40,
        "backbone": backbone,
        "batch_size": 4,
    }
    return Options(**{**given, "quick": True, "start": "recipe", "device": "cpu", **changes})


@pytest.mark.parametrize(("vary", "values"), [("K", "1,2"), ("batch", "2,4"), ("width", "64,128"), ("thoughts", "1,2")])
def test_scaling_has_a_point_for_every_value(
    vary: str, values: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if len(KNOBS[vary].methods) > 1:
        monkeypatch.setitem(KNOBS, vary, Knob(("direct", "rim"), KNOBS[vary].values))  # type: ignore[arg-type]
    told = measure(Request("scaling", small(), rounds=1, vary=vary, values=values))
    found = told["scaling"]
    assert undocumented(told) == [] and found["values"] == [int(v) for v in values.split(",")]
    assert {(c["method"], c["work"]) for c in found["curves"]} == {
        (m, w) for m in KNOBS[vary].methods for w in ("training", "answer")
    }
    for curve in found["curves"]:
        assert len(curve["seconds"]) == len(curve["flops"]) == len(curve["gflops"]) == 2
        grows = curve["flops"][1] / curve["flops"][0]
        # blocks, thoughts and width cost more; an example of a larger batch costs about the same
        assert (0.7 < grows < 1.4) if vary == "batch" else grows > (2 if vary == "width" else 1)
        for seconds, flops, rate in zip(curve["seconds"], curve["flops"], curve["gflops"], strict=True):
            assert rate == pytest.approx(flops / seconds["median"] / 1e9, rel=1e-3)
    if vary == "K":
        path = history.add(told, tmp_path)
        assert sorted(p.suffix for p in tmp_path.glob(f"{path.stem}.*")) == [".json", ".png", ".sha256", ".svg"]
        again = scaling_pictures(json.loads(path.read_text()), tmp_path / "again")
        assert again[0].read_bytes() == path.with_suffix(".svg").read_bytes()
        assert f"![K]({path.stem}.svg)" in (tmp_path / history.PAGE).read_text("utf-8")


def test_questions_are_given_their_length() -> None:
    bench = Bench(small(methods=("direct",)))
    long = copy.copy(bench)
    example = bench.data[0]
    assert len(lengthened(example, 5).question) == 5 and lengthened(example, 5).question == example.question[:5]
    assert lengthened(example, 100).question[len(example.question) : 2 * len(example.question)] == example.question
    long.data = [lengthened(e, 40) for e in bench.data]
    long._arms = {}
    assert {p.size for p in long.arm("direct").prompts(long.arm("direct").questions(0, 4))} == {40}
    assert answer_flops(long.arm("direct")) > answer_flops(bench.arm("direct"))


def test_scaling_refuses_what_has_no_meaning(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'width'"):
        parse_values(None, "with")
    for wrong in ("4", "4,2", "0,2", "a,b"):
        with pytest.raises(UsageError, match="ascending"):
            parse_values(wrong, "K")
    with pytest.raises(UsageError, match="multiples of 64"):
        measure(Request("scaling", small(), rounds=1, vary="width", values="33,64"))
    with pytest.raises(UsageError, match="nothing to plot"):
        scaling_picture(made(), tmp_path / "a.svg")
    with pytest.raises(UsageError, match="suffix"):
        scaling_picture(made(), tmp_path / "a.gif")


# The command line


def test_the_command_prints_stores_and_shows(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "bench"
    small_model = (
        "--backbone",
        "width=16",
        "--backbone",
        "layers=1",
        "--backbone",
        "heads=2",
        "--limit",
        "40",
        "--batch-size",
        "4",
    )
    flags = ("-m", "direct", "--rounds", "1", "--device", "cpu", *small_model, "--out", out)
    code, text, _ = call("bench", "train", *flags, "--record", "--json", tmp_path / "one.json")
    assert code == 0 and "Training: chain (generated)" in text and "stored:" in text
    (stored,) = out.glob("*.json")
    told = json.loads(stored.read_text())
    assert told == json.loads((tmp_path / "one.json").read_text())
    assert str(tmp_path) not in stored.read_text()  # whose folders they were is nobody's business
    monkeypatch.setenv("RIM_BENCH_DATA", "nowhere")  # is no flag
    code, text, _ = call("bench", "history", "--out", out)
    assert code == 0 and text == (out / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--json", "folder"), "--json 'folder' cannot be written: it is a folder"),
        (("train", "--json", "file/one.json"), "--json 'file/one.json' cannot be written: Not a directory"),
        (("train", "--json", "locked/new/one.json"), "--json 'locked/new/one.json' cannot be written: Read-only"),
        (("train", "--record", "--out", "file"), "--out 'file/README.md' cannot be written: Not a directory"),
        (("train", "--record", "--out", "locked"), "--out 'locked/README.md' cannot be written: Read-only"),
        (("train", "--record", "--out", "taken"), "--out 'taken/README.md' cannot be written: it is a folder"),
        (("--against", "plain"), "unknown comparison 'plain'"),  # train knows it, and would have been measured
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_measured(
    arguments: tuple[str, ...], message: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("folder", "locked", "taken/README.md"):
        Path(folder).mkdir(parents=True)
    Path("file").touch()
    there, measured, real = set(tmp_path.rglob("*")), [], tempfile.TemporaryFile

    def locked(dir: Path) -> Any:
        if dir.name == "locked":  # a real one would let an administrator write
            raise OSError(errno.EROFS, "Read-only file system")
        return real(dir=dir)

    def measure(request: Request, show: object) -> dict[str, Any]:
        measured.append(request)
        return made()

    monkeypatch.setattr("tempfile.TemporaryFile", locked)
    monkeypatch.setattr("rim_bench.bench.measure.measure", measure)
    code, _, err = call("bench", *arguments)
    assert code == 2 and message in err and err.startswith("error: ") and err.count("\n") == 1
    assert not measured and set(tmp_path.rglob("*")) == there
    code, _, _ = call("bench", "train", "--json", "new/one.json", "--record", "--out", "folder/new")
    assert (
        code == 0
        and len(measured) == 1
        and Path("new/one.json").is_file()
        and len(list(Path("folder/new").iterdir())) == 3
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bench", "trian"), "did you mean 'train'"),
        (("bench", "history", "--out", "nowhere"), "no measurement is stored"),
        (("bench", "history", "--only", "3", "--tokens", "9"), "--tokens has no meaning for history"),
        (("bench", "history", "--rounds", "5"), "--rounds has no meaning for history"),  # its default
        (("bench", "history", "-m", "rim"), "--methods has no meaning for history"),
        (("bench", "history", "--record"), "--record has no meaning for history"),
        (("bench", "scaling"), "needs --vary"),
        (("bench", "train", "--vary", "K"), "--vary K has no meaning for train"),
        (("bench", "--only", "1"), "has no meaning for train and eval"),
        (("bench", "--json", "x.json"), "--json takes one measurement"),
        (("bench", "targets", "--methods", "rim"), "--methods has no meaning"),
        (("bench", "targets", "--only", "12"), "no row of the targets"),
        (("bench", "targets", "--only", ""), "an empty text stands behind '--only'"),
        (("bench", "targets", "--only", " ,"), "--only ' ,' names no row of the targets"),
        (("bench", "train", "--against", ","), "--against ',' names nothing: give plain, hf, none"),
        (("bench", "train", "--against", "hff"), "unknown comparison 'hff'"),
        (("bench", "train", "--rounds", "0"), "must be at least 1"),
        (("bench", "eval", "--tokens", "0"), "--tokens 0 is too small: give a whole number of at least 1"),
        (("bench", "eval", "--tokens", "-5"), "--tokens -5 is too small: give a whole number of at least 1"),
        (("bench", "train", "--threads", "0"), "--threads 0 is too small"),
        (("bench", "train", "--task", "gsm8k", "--data", "nowhere"), "data folder 'nowhere' does not exist"),
    ],
)
def test_bad_input_is_a_sentence(
    arguments: tuple[str, ...], message: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = call(*arguments)
    assert code == 2 and message in err and err.startswith("error: ") and err.count("\n") == 1
    assert not list(tmp_path.iterdir())
