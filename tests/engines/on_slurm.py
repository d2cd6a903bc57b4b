"""Grids on a Slurm of two nodes, whose parts end at the wrong moments: every cell ends once, as one process would have
made it, or is reported by name, and nothing is trained twice.

Not part of the suite, as it needs `apt-get install slurm-wlm munge` and `pip install submitit`, and minutes:

    pytest tests/engines/on_slurm.py    # -k replaced: what continuous integration runs
"""

from __future__ import annotations

import math
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cells import Cells, until
from slurm_cluster import SlurmCluster, missing

pytest.importorskip("submitit")
pytestmark = pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}")
BOTH = ["--executor", "submitit", "--executor-set", "slurm_partition=both"]
SEEDS = 3


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # pytest's own paths are too long for sockets
    try:
        with SlurmCluster(folder) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def cells(cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cells]:
    cells = Cells(tmp_path_factory.mktemp("cells"), BOTH, cluster.environment)
    cells.reference(SEEDS)
    yield cells
    cells.close()


@pytest.fixture
def grid(cells: Cells, cluster: SlurmCluster) -> Iterator[Cells]:
    """The cells wait, and all nodes are idle."""
    until(lambda: cluster.states() == {"idle"}, "two idle nodes", cells.patience)
    cells.close_gate()
    yield cells
    cells.open_gate()


def queue(cluster: SlurmCluster, fields: str) -> list[str]:
    """What the queue says of each job under way."""
    return cluster.call("squeue", "--noheader", f"--format={fields}").split()


def test_a_worker_that_is_killed_is_replaced_on_either_node(grid: Cells, cluster: SlurmCluster) -> None:
    command = grid.start("killed", SEEDS)
    first = grid.waiting(SEEDS)[0]
    assert set(queue(cluster, "%N")) == {"node1", "node2"}
    first.kill()
    command.says("once more from step 4")
    assert f"its job {first.job} ended without an answer (FAILED, NonZeroExitCode)" in command.said()
    grid.open_gate()
    assert command.end() == 0 and grid.runs("killed") == grid.runs("one")


def test_a_cancelled_job_is_reported_and_taken_up_by_the_same_command(grid: Cells, cluster: SlurmCluster) -> None:
    command = grid.start("cancelled", SEEDS)
    first = grid.waiting(SEEDS)[0]
    cluster.call("scancel", first.job)
    command.says(f"its job {first.job} was cancelled")
    grid.open_gate()
    assert command.end() == 2 and "Cells without a result" in command.said()
    assert len(grid.runs("cancelled")) == SEEDS - 1
    again = grid.start("cancelled", SEEDS)
    assert again.end() == 0 and "from step 4" in again.said() and grid.runs("cancelled") == grid.runs("one")


def test_a_node_that_is_lost_gives_its_jobs_to_the_other(grid: Cells, cluster: SlurmCluster) -> None:
    command = grid.start("node", SEEDS)
    grid.waiting(SEEDS)
    cluster.kill("node1")
    back = {"BeginTime", "Resources", "NodeDown"}
    until(lambda: back & set(queue(cluster, "%r")), "a job that is requeued", grid.patience)
    grid.open_gate()
    try:
        assert command.end() == 0 and grid.runs("node") == grid.runs("one")
    finally:
        cluster.start("node1")


def test_a_daemon_that_is_lost_leaves_its_job_at_work_and_the_job_in_its_place_waits(
    grid: Cells, cluster: SlurmCluster
) -> None:
    command = grid.start("daemon", SEEDS)
    grid.waiting(SEEDS)
    cluster.kill("node1", only_daemon=True)
    command.says("put off: ")
    grid.open_gate()
    try:
        assert command.end() == 0 and grid.runs("daemon") == grid.runs("one")
    finally:
        cluster.start("node1")


def test_a_time_limit_requeues_the_job(grid: Cells, cluster: SlurmCluster) -> None:
    minutes = 1 + math.ceil(grid.alone / 60)  # it is told a minute before the end, having begun to train
    limits = [f"timeout_min={minutes}", "slurm_signal_delay_s=60"]
    command = grid.start("limit", 1, *(word for one in limits for word in ("--executor-set", one)))
    (first,) = grid.waiting(1)
    shown = lambda: cluster.call("scontrol", "show", "job", first.job)  # noqa: E731
    until(lambda: "Restarts=1" in shown(), "a requeued job", 60 * minutes + grid.patience)
    grid.open_gate()
    assert command.end() == 0 and "died" not in command.said() and len(grid.jobs("limit")) == 1
    assert grid.runs("limit").items() <= grid.runs("one").items()


def test_a_controller_that_is_away_is_waited_for(grid: Cells, cluster: SlurmCluster) -> None:
    command = grid.start("controller", SEEDS)
    first = grid.waiting(SEEDS)[0]
    cluster.kill("slurmctld")
    command.says("Slurm does not answer")
    first.kill()
    cluster.start("slurmctld")
    command.says("Slurm answers again")
    command.says("once more from step 4")
    grid.open_gate()
    assert command.end() == 0 and grid.runs("controller") == grid.runs("one")


def test_a_killed_command_started_again_waits_for_the_jobs_of_the_first(grid: Cells) -> None:
    command = grid.start("again", SEEDS)
    pids = {cell.pid for cell in grid.waiting(SEEDS)}
    command.process.send_signal(signal.SIGKILL)
    again = grid.start("again", SEEDS)
    again.says(f"(pid {min(pids)}) works on")
    assert {cell.pid for cell in grid.waiting(SEEDS)} == pids
    grid.open_gate()
    assert again.end() == 0 and grid.runs("again") == grid.runs("one")


def test_two_commands_at_once_share_the_work(grid: Cells) -> None:
    commands = [grid.start("both", SEEDS) for _ in range(2)]
    grid.waiting(SEEDS)
    grid.open_gate()
    assert [command.end() for command in commands] == [0, 0] and grid.runs("both") == grid.runs("one")


def test_more_cells_than_places_and_a_drained_node(grid: Cells, cluster: SlurmCluster) -> None:
    command = grid.start("drained", SEEDS, "--executor-set", "cpus_per_task=2")
    grid.waiting(2)
    assert sorted(queue(cluster, "%T")) == ["PENDING", "RUNNING", "RUNNING"]
    cluster.call("scontrol", "update", "nodename=node1", "state=drain", "reason=test")
    try:
        grid.open_gate()
        assert command.end() == 0 and grid.runs("drained") == grid.runs("one")
    finally:
        cluster.call("scontrol", "update", "nodename=node1", "state=resume")


def test_a_queue_that_takes_no_more_is_tried_again_when_a_job_has_ended(grid: Cells, cluster: SlurmCluster) -> None:
    command = grid.start("closed", SEEDS, "--workers", "2")
    first, _ = grid.waiting(2)
    cluster.call("scontrol", "update", "partitionname=both", "state=drain")
    try:
        cluster.call("scancel", first.job)
        command.says("put off: ")
        assert "submitit could not start it" in command.said()
    finally:
        cluster.call("scontrol", "update", "partitionname=both", "state=up")
    grid.open_gate()
    assert command.end() == 2 and len(grid.runs("closed")) == SEEDS - 1


def test_what_a_queue_holds_back_is_said(grid: Cells, cluster: SlurmCluster) -> None:
    command = grid.start("held", 1, "--executor-set", "slurm_partition=short")
    command.says("Slurm holds back 1 of the jobs (PartitionTimeLimit)")
    command.process.send_signal(signal.SIGINT)
    assert command.end() == 130 and queue(cluster, "%i") == []
