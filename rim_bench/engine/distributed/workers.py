"""Several processes as one program: the first leads, the others do what it hands out.

The leader runs the program as if it were alone; nothing but a training step and a batch of questions is handed out. So
one process decides, writes and prints, and a run's folder, its lock and its journal know nothing of the others. What is
handed out travels over a group of its own (gloo), on which a follower may wait for hours; gradients travel over the
default group (nccl between GPUs).

An error of the leader between two jobs sends the others home. One inside a job, of any process, ends that process, and
the launcher
ends the rest: that is what torchrun does.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rim_bench.engine.distributed import environment
from rim_bench.util.errors import UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from rim_bench.engine.backbone import Backbone

PATIENCE = timedelta(days=30)  # that a follower waits for its next job; a leader that dies ends it at once
QUIT = "quit"
LOST = ("gloo", "nccl", "connection")  # in what torch says when a process does not answer


class WorkerGroup:
    """The processes of this program, seen from one of them.

    Attributes:
        rank: which one this is; 0 leads.
        size: how many there are.
        live: the backbone that is being trained, which every process has; None between trainings.
        sent: the backbone that every process has for evaluation; None before the first.
    """

    def __init__(self, rank: int, size: int, control: Any) -> None:
        self.rank, self.size, self.control = rank, size, control
        self.live: Backbone | None = None
        self.sent: Backbone | None = None
        self._sound = True

    @property
    def sound(self) -> bool:
        """Whether jobs can still be handed out."""
        return self._sound

    def give_up(self) -> None:
        """The others are left in the middle of something: nothing can be handed out any more, and they end when this
        process does.
        """
        self._sound = False

    def record(self, device: torch.device, strategy: str) -> dict[str, Any]:
        """What a run's records say of its processes."""
        return {"world_size": self.size, "backend": "nccl" if device.type == "cuda" else "gloo", "strategy": strategy}

    # what travels

    def hand_out(self, jobs: Sequence[Any] | None = None) -> Any:
        """One job for each process, from the leader; returns this one's."""
        out: list[Any] = [None]
        with self._whole():
            dist.scatter_object_list(out, None if jobs is None else list(jobs), src=0, group=self.control)
        return out[0]

    def collect(self, mine: Any) -> list[Any]:
        """Something from every process, in their order; an empty list for those that do not lead."""
        out: list[Any] = [None] * self.size if self.rank == 0 else []
        with self._whole():
            dist.gather_object(mine, out if self.rank == 0 else None, dst=0, group=self.control)
        return out

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes, in float64."""
        total = torch.tensor(values, dtype=torch.float64)
        with self._whole():
            dist.all_reduce(total, group=self.control)
        return [float(v) for v in total]

    def tell_all(self, name: str, *arguments: Any) -> None:
        """The same job for every follower."""
        self.hand_out([(name, *arguments)] * self.size)

    def give(self, thing: Any = None, device: torch.device | None = None) -> Any:
        """The leader's object with the tensors in it, on every other process's `device`; the leader's own is not
        touched.

        Tensors travel one by one and not inside a pickle: a large model is never in memory twice.
        """
        packed: list[Any] = [None, None]
        tensors: list[Tensor] = []
        if self.rank == 0:
            file = io.BytesIO()
            packer = _Packer(file)
            packer.dump(thing)
            tensors = packer.tensors
            packed = [file.getvalue(), [_Kind.of(t) for t in tensors]]
        with self._whole():
            dist.broadcast_object_list(packed, src=0, group=self.control)
            if self.rank == 0:
                for tensor in tensors:
                    self._broadcast(_bytes(tensor))
                return thing
            made = [kind.receive(self._broadcast, device) for kind in packed[1]]
        return _Unpacker(io.BytesIO(packed[0]), made).load()

    def _broadcast(self, data: Tensor) -> None:
        if data.numel():
            dist.broadcast(data, src=0, group=self.control)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """What breaks in here leaves the others waiting in the middle of something: nothing can be handed out any more.

        Raises:
            UsageError: another process is gone.
        """
        try:
            yield
        except RuntimeError as error:
            self.give_up()
            if not any(word in str(error).lower() for word in LOST):
                raise
            reason = str(error).splitlines()[0].split(". ")[0]
            raise UsageError(
                f"process {self.rank} of {self.size} lost another one, whose own message says why ({reason}): "
                "the same command again goes on from the last checkpoint"
            ) from error
        except BaseException:
            self.give_up()
            raise

    @contextmanager
    def job(self) -> Iterator[None]:
        """Work that every process does at the same time, and in which each waits for the others."""
        with self._whole():
            yield

    def close(self) -> None:
        """The leader sends the others home."""
        if self.rank == 0 and self._sound:
            with suppress(UsageError, RuntimeError):  # they are gone already
                self.tell_all(QUIT)
                dist.destroy_process_group()


def join() -> WorkerGroup:
    """Find the other processes that were started with this one.

    Raises:
        UsageError: they do not find each other, or are another number than the launcher said.
    """
    rank, size = environment.rank(), environment.started()
    local = int(os.environ.get("LOCAL_RANK", rank))
    if torch.cuda.is_available() and local < torch.cuda.device_count():
        torch.cuda.set_device(local)
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", rank=rank, world_size=size
        )
        control = dist.new_group(backend="gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"process {rank} of {size} does not find the others ({reason}): start all of them with torchrun"
        ) from error
    return WorkerGroup(rank, size, control)


def accelerator(team: WorkerGroup, device: torch.device, **options: Any) -> Accelerator:
    """accelerate, on the processes that are there.

    Raises:
        UsageError: it sees another number of them.
    """
    from accelerate import Accelerator

    made = Accelerator(cpu=device.type == "cpu", device_placement=False, **options)
    if made.num_processes != team.size:
        raise UsageError(
            f"{team.size} processes were started, but accelerate works with {made.num_processes}: start them with "
            "torchrun"
        )
    return made


# Objects with tensors in them
class _Kind(NamedTuple):
    """All of a tensor but its values."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    parameter: bool
    trains: bool

    @classmethod
    def of(cls, tensor: Tensor) -> _Kind:
        return cls(tuple(tensor.shape), tensor.dtype, isinstance(tensor, nn.Parameter), tensor.requires_grad)

    def receive(self, fill: Callable[[Tensor], None], device: torch.device | None) -> Tensor:
        """The tensor, its values put in by `fill`."""
        tensor = torch.empty(self.shape, dtype=self.dtype)
        fill(_bytes(tensor))  # shares its memory
        tensor = tensor.to(device or "cpu")
        return nn.Parameter(tensor, requires_grad=self.trains) if self.parameter else tensor


def _bytes(tensor: Tensor) -> Tensor:
    """A tensor's bytes on the CPU; the very memory of one that lies there in one piece."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


class _Packer(pickle.Pickler):
    """Leaves tensors out and lists them: one that stands in two places (tied embeddings) once."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.tensors: list[Tensor] = []
        self._known: dict[int, int] = {}

    def persistent_id(self, thing: Any) -> int | None:
        if not isinstance(thing, Tensor):
            return None
        if id(thing) not in self._known:
            self._known[id(thing)] = len(self.tensors)
            self.tensors.append(thing)
        return self._known[id(thing)]


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, tensors: Sequence[Tensor]) -> None:
        super().__init__(file)
        self.tensors = tensors

    def persistent_load(self, pid: Any) -> Tensor:
        return self.tensors[int(pid)]
