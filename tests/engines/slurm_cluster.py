"""Slurm on this machine, of Debian's packages `slurm-wlm` and `munge`: two nodes in three partitions.

    python tests/engines/slurm_cluster.py FOLDER    # a new one; until Ctrl-C; prints what makes commands use it

Everything is in one folder: keys, configuration, states, logs. No systemd, no root, no cgroups; what another Slurm of
this machine has stays as it is. The nodes are daemons on ports of their own and pretend to have two CPUs each.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

NODES = ("node1", "node2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
# The cluster is in a hurry: a node is given up after 6 s, a job is killed 2 s after it was told to end, a requeued one
# begins after 6 s, and what has ended is forgotten after 30 s.
CONFIGURATION = """
ClusterName=engines
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2
MpiDefault=none
ReturnToService=2
SlurmdTimeout=6
InactiveLimit=0
KillWait=2
MinJobAge=30
MaxJobCount={jobs}
NodeName={nodes} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports} CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=short Nodes=node1 Default=YES MaxTime=10 State=UP
PartitionName=long Nodes=node2 MaxTime=INFINITE State=UP
PartitionName=both Nodes=node1,node2 MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """The programs that are not installed."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


def free_ports(count: int) -> int:
    """The first of so many consecutive ports that nothing listens on."""
    for first in range(20000 + os.getpid() % 1000 * 10, 60000, count):
        with suppress(OSError):
            for port in range(first, first + count):
                with socket.socket() as one:
                    one.bind(("127.0.0.1", port))
            return first
    raise RuntimeError("no free ports")


def until(look: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """What `look` returns once it is something; RuntimeError after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := look():
            return value
        time.sleep(0.2)
    raise RuntimeError(f"{what}: not within {seconds:.0f} s")


class SlurmCluster:
    """The daemons of a cluster, each a child of this process.

    Args:
        folder: of everything; a short path, as that of a socket may have 107 characters.
        jobs: that the controller remembers before it takes no more.
    """

    def __init__(self, folder: Path, jobs: int = 100) -> None:
        self.folder = folder
        self.configuration = folder / "slurm.conf"
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(self.configuration),
            "PATH": os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin")),
        }
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        first = free_ports(3)
        text = CONFIGURATION.format(
            folder=folder,
            host=socket.gethostname().split(".")[0],
            user=getpass.getuser(),
            controller=first,
            ports=f"[{first + 1}-{first + 2}]",
            nodes="node[1-2]",
            jobs=jobs,
        )
        (folder / "state").mkdir(parents=True)
        self.configuration.write_text(text)
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)

    def __enter__(self) -> SlurmCluster:
        try:
            self.start("munged")
            until(lambda: (self.folder / "munge.socket").exists(), "munged")
            for name in ("slurmctld", *NODES):
                self.start(name)
            until(lambda: self.states() == {"idle"}, "two idle nodes")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(subprocess.SubprocessError):
            self.call("scancel", "--user", getpass.getuser(), timeout=10)
        for name in reversed(list(self.daemons)):
            self.kill(name)

    def start(self, name: str) -> None:
        """Starts a daemon: munged, slurmctld, or a node's."""
        commands = {
            "munged": ["munged", "--foreground", "--force", "--num-threads=2"]
            + [f"--{what}={self.folder}/munge.{end}" for what, end in (("socket", "socket"), ("key-file", "key"))]
            + [f"--{what}-file={self.folder}/munge.{what}" for what in ("pid", "log", "seed")],
            "slurmctld": ["slurmctld", "-D"],
        }
        command = commands.get(name, ["slurmd", "-D", "-N", name])
        with (self.folder / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                command,
                env={**self.environment, "SLURMD_NODENAME": name},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def kill(self, name: str, *, only_daemon: bool = False) -> None:
        """Ends a daemon; with a node's what computes on it, as where its power goes."""
        daemon = self.daemons.pop(name)
        for pid in (daemon.pid, *([] if only_daemon else self.processes(name))):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        daemon.wait(20)

    def call(self, *command: str, timeout: float = 60) -> str:
        """What a command of Slurm prints."""
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=timeout, check=True
        ).stdout

    def states(self) -> set[str]:
        """Those of the nodes."""
        with suppress(subprocess.CalledProcessError):
            return set(self.call("sinfo", "--noheader", "--Node", "--format=%T").split())
        return set()

    def processes(self, node: str) -> list[int]:
        """What computes on a node."""
        pids: list[int] = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                variables = (folder / "environ").read_bytes().split(b"\0")
                if {f"SLURM_CONF={self.configuration}".encode(), f"SLURMD_NODENAME={node}".encode()} <= set(variables):
                    pids.append(int(folder.name))
        return pids


def main() -> None:
    """A cluster for other commands, until Ctrl-C."""
    if missing():
        sys.exit(f"not installed: {', '.join(missing())} (apt-get install slurm-wlm munge)")
    with SlurmCluster(Path(sys.argv[1]).resolve()) as cluster:
        print(f"export SLURM_CONF={cluster.configuration}", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
