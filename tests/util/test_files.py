"""Files that somebody names and that are none: devices without an end, and pipes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rim_bench.compute.backbones import weight_hashes
from rim_bench.data.question_ids import read_selection
from rim_bench.data.rows import read_raw
from rim_bench.evidence.baseline import read_baseline
from rim_bench.evidence.retraining import read
from rim_bench.report.references import load
from rim_bench.runs.study_file import read_study
from rim_bench.util import files
from rim_bench.util.errors import UsageError
from rim_bench.util.own_files import read_own


@pytest.mark.parametrize(
    "reader", [read_raw, read_own, read_study, read_baseline, read_selection, load, read], ids=lambda f: f.__module__
)
def test_a_device_without_an_end_is_refused(reader: Callable[[Path], Any]) -> None:
    with pytest.raises(UsageError, match=r"'/dev/zero' cannot be read.*: .*it is a device, not a file"):
        reader(Path("/dev/zero"))


def test_weights_that_are_a_link_to_a_device_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").symlink_to("/dev/zero")
    with pytest.raises(UsageError, match=r"model\.safetensors' cannot be read: it is no file"):
        weight_hashes(tmp_path)


def test_a_pipe_is_read_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST", 4)
    for data in (b"1234", b"12345"):
        reading, writing = os.pipe()
        os.write(writing, data)
        os.close(writing)
        path = Path(f"/dev/fd/{reading}")
        if len(data) == 4:
            assert files.read_whole(path) == data
        else:
            with pytest.raises(OSError, match="it does not end within 4 bytes"):
                files.read_whole(path)
        os.close(reading)
