"""What errors of the machine and of others' packages say."""

from __future__ import annotations

import errno
import importlib
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rim_bench.util.errors import sentence
from rim_bench.util.progress import phase


def said(error: BaseException) -> str:
    text = sentence(error)
    assert text is not None and "\n" not in text
    return text


def test_memory_that_runs_out_is_said_with_its_size_and_place(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError) as raised, phase("training rim"):
        torch.zeros(10**15)
    assert "while training rim, 4000000000000000 bytes more were wanted" in said(raised.value)
    with pytest.raises(MemoryError) as numpys:
        np.zeros(10**16)
    assert "this computer's memory is not enough, 71.1 PiB more were wanted" in said(numpys.value)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (2_048_000, 2_048_000))
    assert "(2,048,000 bytes are allowed, ulimit -v)" in said(MemoryError())
    assert "memory is not enough" in said(OSError(errno.ENOMEM, "Cannot allocate memory"))
    gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB")
    assert said(gpu).startswith("the GPU's memory is not enough, 2.00 GiB more were wanted: give a smaller")
    assert sentence(RuntimeError("a bug")) is None


def test_a_package_that_stops_at_the_environment_is_named_with_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "picky_package.py").write_text("import os\nWAIT = int(os.environ['PICKY_WAIT'])\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PICKY_WAIT", "soon")
    ours = {"__name__": "rim_bench.somewhere", "load": importlib.import_module}
    with pytest.raises(ValueError, match="soon") as raised:
        exec("load('picky_package')", ours)
    assert said(raised.value) == (
        "picky_package cannot be imported (ValueError: invalid literal for int() with base 10: 'soon'); the "
        "environment has PICKY_WAIT='soon'"
    )
    with pytest.raises(ZeroDivisionError) as own:
        exec("1 / 0", ours)
    assert sentence(own.value) is None and "picky_package" not in sys.modules
