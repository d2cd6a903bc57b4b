"""Where data lie and how much of them is read: options of every command that reads rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from rim_bench.util.flags import Flag, read_files
from rim_bench.util.own_files import allow_files

Steps = Literal["equations", "prose"]


@dataclass(frozen=True, kw_only=True)
class PlaceOptions:
    """Where data lie and what computes."""

    SUBJECT: ClassVar[str] = "Data and device"

    data: Annotated[Path | None, Flag("Folder of the published files instead of the hub.", envvar="RIM_BENCH_DATA")] = (
        None
    )
    device: Annotated[str | None, Flag("cpu, cuda, cuda:1. Default: a GPU if there is one.")] = None


@dataclass(frozen=True, kw_only=True)
class OwnCodeOptions:
    """Code of one's own that stored runs or a study file need: nothing is run because a folder names it.

    Attributes:
        method_files: .py files of methods.
        task_files: YAML files of tasks.
        trust: FILE:SHA256, each: the file, if it has that content.
    """

    SUBJECT: ClassVar[str] = "Own code"

    method_files: Annotated[
        tuple[str, ...],
        Flag("A .py file of your own method, which runs name by its hash.", "--method-file", read=tuple, many=True),
    ] = ()
    task_files: Annotated[
        tuple[str, ...], Flag("A YAML file of your own task, likewise.", "--task-file", read=tuple, many=True)
    ] = ()
    trust: Annotated[
        tuple[str, ...], Flag("FILE:SHA256: use this file if it has this content.", read=tuple, many=True)
    ] = ()

    def allow(self) -> None:
        """Lets this process run these files.

        Raises:
            UsageError: one that is missing, or has another content than its hash says.
        """
        allow_files((*self.method_files, *self.task_files), self.trust)


@dataclass(frozen=True, kw_only=True)
class DataOptions(PlaceOptions):
    """Which rows are read.

    Attributes:
        files: split -> file of your own rows; nothing else is read then.
        allow_changed_data: take rows whose hash is not the registered one; results then say so.
    """

    SUBJECT: ClassVar[str] = "Data and device"

    files: Annotated[
        dict[str, str] | None,
        Flag("Your own rows: train=PATH, validation=PATH, test=PATH.", "--file", read=read_files, many=True),
    ] = None
    steps: Annotated[Steps, Flag("Reasoning steps of annotated tasks: equations or prose.")] = "equations"
    limit: Annotated[int | None, Flag("Only the first N rows of each split.")] = None
    allow_changed_data: Annotated[
        bool, Flag("Take rows whose hash is not the registered one.", envvar="RIM_BENCH_ALLOW_CHANGED")
    ] = False
