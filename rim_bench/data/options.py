"""Where data lie and how much of them is read: options of every command that reads rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from rim_bench.util.flags import Flag, read_files

Steps = Literal["equations", "prose"]


@dataclass(frozen=True, kw_only=True)
class PlaceOptions:
    """Where data lie and what computes."""

    data: Annotated[Path | None, Flag("Folder of the published files instead of the hub.", envvar="RIM_BENCH_DATA")] = (
        None
    )
    device: Annotated[str | None, Flag("cpu, cuda, cuda:1. Default: a GPU if there is one.")] = None


@dataclass(frozen=True, kw_only=True)
class DataOptions(PlaceOptions):
    """Which rows are read.

    Attributes:
        files: split -> file of your own rows; nothing else is read then.
        allow_changed_data: take rows whose hash is not the registered one; results then say so.
    """

    files: Annotated[
        dict[str, str] | None,
        Flag("Your own rows: train=PATH, validation=PATH, test=PATH.", "--file", read=read_files, many=True),
    ] = None
    steps: Annotated[Steps, Flag("Reasoning steps of annotated tasks: equations or prose.")] = "equations"
    limit: Annotated[int | None, Flag("Only the first N rows of each split.")] = None
    allow_changed_data: Annotated[
        bool, Flag("Take rows whose hash is not the registered one.", envvar="RIM_BENCH_ALLOW_CHANGED")
    ] = False
