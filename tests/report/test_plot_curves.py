"""Pictures of inference curves: what is in them, and the same bytes from the same runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fabricated import evaluate, study, train

from rim_bench.evidence.ranking import contests
from rim_bench.report.plots.curves import curve_plot, curve_plots
from rim_bench.storage.run_folder import Run, Store
from rim_bench.util.errors import UsageError


def test_same_runs_same_bytes(tmp_path: Path) -> None:
    runs = study(Store(tmp_path), seeds=(0, 1), n=40, ood=20)
    one, missing = curve_plots(contests(runs)[0], tmp_path)
    assert not missing and [p.name for p in one] == [
        f"curves-{k}.{s}" for k in ("flops", "passes", "latency") for s in ("svg", "png")
    ]
    again, _ = contests([Run(r.path) for r in reversed(runs)])
    for path in one[:2]:
        curve_plot(again, "flops", tmp_path / f"again{path.suffix}")
        assert path.read_bytes() == (tmp_path / f"again{path.suffix}").read_bytes()
    text = one[0].read_text("utf-8")
    # no name in it hangs on more digits than the picture shows
    assert 'id="clip0"' in text and "url(#clip0)" in text and not re.search(r"#p[0-9a-f]{10}", text)
    for said in (
        "closed division, 3.1 T training FLOPs",
        "open division, 64,000 training examples",
        "rim, by K",
        "cot, by max_tokens",
        "default setting",
        "in distribution, n = 40",
        "OOD, n = 20",
        "best constant answer",
        "20 M",
    ):
        assert said in text, said
    assert "dc:date" not in text and "quick" not in text
    assert "passes" in one[2].read_text("utf-8") and one[1].read_bytes().startswith(b"\x89PNG")


def test_a_point_alone_and_a_cost_that_is_missing(tmp_path: Path) -> None:
    run = train(Store(tmp_path), "direct", spec={"quick": True})
    nothing = {"median": None, "p95": None, "mean": None}
    evaluate(run, [True, False], latency={"batch": 1, "n": 0, "ttft_ms": nothing, "full_ms": nothing})
    found, _ = contests([run])
    drawn, missing = curve_plots(found, tmp_path, ("svg",))
    assert (
        [p.name for p in drawn] == ["curves-flops.svg", "curves-passes.svg"]
        and len(missing) == 1
        and "latency" in missing[0]
    )
    assert "quick: not a result" in drawn[0].read_text("utf-8")
    with pytest.raises(UsageError, match="latency"):
        curve_plot(found, "latency", tmp_path / "a.svg")
    with pytest.raises(UsageError, match="png, svg, pdf"):
        curve_plot(found, "flops", tmp_path / "a.gif")
