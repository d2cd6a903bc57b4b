"""Where converted models lie on this machine, each under the sha256 of the file that it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rim_bench.compute.backbones import gguf_entries
from rim_bench.util.errors import UsageError
from rim_bench.util.files import damage_of, home_folder


def converted_folder(sha256: str) -> Path:
    """The folder of a converted model, be it there or not: below $RIM_BENCH_HOME, else in the user's cache."""
    return home_folder() / "models" / sha256


def converted_model(spec: Mapping[str, Any]) -> Path:
    """The folder of a "gguf" backbone. Raises UsageError where it is not there, or damaged, with what brings it."""
    name, folder = str(spec["name"]), converted_folder(str(spec["gguf"]))
    source = name if name in gguf_entries() else "FILE.gguf"
    command = f"`rim-bench models fetch {source}`"
    way_out = command if source == name else f"{command} with the file that has the sha256 {spec['gguf']}"
    if not folder.is_dir():
        raise UsageError(
            f"the model {name} is not on this machine ({str(folder)!r} does not exist): fetch it with {way_out}"
        )
    if (damage := damage_of(folder)) is not None:
        raise UsageError(f"the model {name} in {str(folder)!r} is damaged ({damage}): repair it with {way_out}")
    return folder
