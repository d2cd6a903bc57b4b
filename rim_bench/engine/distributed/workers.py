"""Several processes as one program: the first leads, the others are workers, which run the functions that it sends.

The leader runs the program as if it were alone; nothing but training steps and batches of questions is shared. So one
process decides, writes and prints, and a run's folder, its lock and its journal know nothing of the workers. Functions
travel over a process group of their own (gloo), on which a worker may wait for hours; gradients travel over the default
group (nccl between GPUs).

An error of the leader between two calls sends the workers home. One inside a call, in any process, ends that process,
and the launcher ends the rest: that is what torchrun does.
"""

from __future__ import annotations

import gc
import io
import logging
import os
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rim_bench.engine import attention
from rim_bench.engine.distributed import environment
from rim_bench.util.errors import UsageError

PATIENCE = timedelta(days=30)  # that a worker waits for its next call; a leader that dies ends it at once
LOST = ("gloo", "nccl", "connection")  # in what torch says when a process does not answer


class WorkerGroup:
    """The processes of this program, seen from one of them.

    Attributes:
        rank: this process's number; 0 leads.
        size: how many processes there are.
        kept: what the functions that run here keep from one call to the next, by name.
        sound: whether calls can still be sent. Once the workers were left in the middle of one they cannot, and the
            workers end when this process does.
    """

    def __init__(self, rank: int, size: int, control: Any) -> None:
        self.rank, self.size, self.control = rank, size, control
        self.kept: dict[str, Any] = {}
        self.sound = True

    def record(self, device: torch.device, strategy: str) -> dict[str, Any]:
        """What a run's records say of its processes."""
        return {"world_size": self.size, "backend": "nccl" if device.type == "cuda" else "gloo", "strategy": strategy}

    # what the leader sends

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The leader's result of `function(group, *arguments)`, which every process runs at the same time.

        Tensors in the arguments reach a worker on its own device of their type.
        """
        with self.together():
            self.send(WorkerGroup.run_broadcast, [()] * (self.size - 1))
            self.broadcast((function, arguments))
            return function(self, *arguments)

    def run_broadcast(self) -> None:
        """A worker's part of `run`."""
        function, arguments = self.broadcast()
        function(self, *arguments)

    def send(self, function: Callable[..., Any] | None, arguments: Sequence[tuple[Any, ...]]) -> None:
        """Have each worker run `function(group, *arguments)` with arguments of its own, small ones without tensors."""
        with self.together():
            calls = [None, *((function, own) for own in arguments)]
            dist.scatter_object_list([None], calls, src=0, group=self.control)

    def receive(self) -> tuple[Callable[..., Any] | None, tuple[Any, ...]]:
        """A worker's next call; no function where it is the last."""
        call: list[Any] = [None]
        with self.together():
            dist.scatter_object_list(call, None, src=0, group=self.control)
        return call[0]  # type: ignore[no-any-return]

    def broadcast(self, value: Any = None) -> Any:
        """The leader's value on every process; the leader's own is not touched.

        Tensors travel one by one and not inside a pickle: a large model is never in memory twice.
        """
        file = io.BytesIO()
        packer = _Packer(file)
        if self.rank == 0:
            packer.dump(value)
        forms = [  # whether it trains: None where it is no parameter
            (t.shape, t.dtype, t.device.type, t.requires_grad if isinstance(t, nn.Parameter) else None)
            for t in packer.tensors
        ]
        packed: list[Any] = [file.getvalue(), forms]
        with self.together():
            dist.broadcast_object_list(packed, src=0, group=self.control)
            if self.rank == 0:
                for tensor in packer.tensors:
                    self._broadcast_values(tensor)
                return value
            tensors = []
            for shape, dtype, device, trains in packed[1]:
                tensor = torch.empty(shape, dtype=dtype)
                self._broadcast_values(tensor)
                tensor = tensor.to(device)  # "cuda" is the GPU that this process was given when it joined
                tensors.append(tensor if trains is None else nn.Parameter(tensor, requires_grad=trains))
        return _Unpacker(io.BytesIO(packed[0]), tensors).load()

    def _broadcast_values(self, tensor: Tensor) -> None:
        """Send a tensor's bytes, or receive them into a new one: on the CPU these are the very memory of the tensor."""
        if tensor.numel():
            values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            dist.broadcast(values, src=0, group=self.control)

    # what all of them do in one call

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank; an empty list for workers."""
        values: list[Any] = [None] * self.size if self.rank == 0 else []
        with self.together():
            dist.gather_object(value, values or None, dst=0, group=self.control)
        return values

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes, in float64."""
        total = torch.tensor(values, dtype=torch.float64)
        with self.together():
            dist.all_reduce(total, group=self.control)
        return [float(v) for v in total]

    def keep(self, name: str, value: Any) -> None:
        """Keep a value under a name."""
        self.kept[name] = value

    def forget(self, *names: str) -> None:
        """Let go of what was kept under these names, or of everything where none is given."""
        for name in names or tuple(self.kept):
            self.kept.pop(name, None)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Work in which the processes wait for each other: what breaks in here leaves the others in the middle of it.

        Raises:
            UsageError: another process is gone.
        """
        try:
            yield
        except RuntimeError as error:
            self.sound = False
            if not any(word in str(error).lower() for word in LOST):
                raise
            reason = str(error).splitlines()[0].split(". ")[0]
            raise UsageError(
                f"process {self.rank} of {self.size} lost another one, whose own message says why ({reason}): "
                "the same command again goes on from the last checkpoint"
            ) from error
        except BaseException:
            self.sound = False
            raise

    def close(self) -> None:
        """The leader sends the workers home."""
        if self.sound:
            with suppress(UsageError, RuntimeError):  # they are gone already
                self.send(None, [()] * (self.size - 1))
                self.leave()

    def leave(self) -> None:
        """Ends both process groups and their threads.

        A group that something still refers to keeps its threads. One of the group of the last call may be at work still
        while the interpreter ends, and then aborts the process ("terminate called without an active exception"). Under
        FSDP torch keeps the default group, which is idle by then.
        """
        self.forget()
        dist.destroy_process_group()
        self.control = None
        gc.collect()  # models that shared their gradients stand in circles


def join() -> WorkerGroup:
    """Find the other processes that were started with this one.

    Raises:
        UsageError: they do not find each other, or are another number than the launcher said.
    """
    rank, size = environment.rank(), environment.started()
    local = int(os.environ.get("LOCAL_RANK", rank))
    if torch.cuda.is_available() and local < torch.cuda.device_count():
        torch.cuda.set_device(local)
    # Imported after the default group is made, they keep it for ever as the default of an argument.
    from torch.distributed.fsdp import sharded_grad_scaler  # noqa: F401
    from torch.distributed.nn import functional  # noqa: F401

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


def work(group: WorkerGroup) -> None:
    """A worker's life: run what the leader sends until it is sent home. An error ends it, and then all processes."""
    logging.getLogger().setLevel(logging.ERROR)  # the leader says everything once
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the leader hears of it too, and sends the workers home
    attention.register()  # models come ready made, and look their kernel up by its name
    while True:
        function, arguments = group.receive()
        if function is None:
            group.leave()
            return
        function(group, *arguments)


# Objects with tensors in them
class _Packer(pickle.Pickler):
    """Leaves tensors out and lists them: one that stands in two places (tied embeddings) once."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.tensors: list[Tensor] = []
        self._numbers: dict[int, int] = {}  # by identity

    def persistent_id(self, value: Any) -> int | None:
        if not isinstance(value, Tensor):
            return None
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self.tensors)
            self.tensors.append(value)
        return self._numbers[id(value)]


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, tensors: Sequence[Tensor]) -> None:
        super().__init__(file)
        self.tensors = tensors

    def persistent_load(self, pid: Any) -> Tensor:
        return self.tensors[int(pid)]
