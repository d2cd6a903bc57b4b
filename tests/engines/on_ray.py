"""Grids on a ray cluster of two nodes on this machine, whose parts end at the wrong moments: every cell ends once, as
one process would have made it, or is reported by name, and nothing is trained twice.

Not part of the suite, as it needs `pip install ray`, and minutes:

    pytest tests/engines/on_ray.py    # -k replaced: what continuous integration runs
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from cells import Cells, until

pytest.importorskip("ray")
SEEDS = 2


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head and a node, one CPU each, which commands find by their address."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # ray leaves a token there
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    try:
        cluster.add_node(**small)
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cells]:
    cells = Cells(tmp_path_factory.mktemp("cells"), [], os.environ)
    cells.reference(SEEDS)
    yield cells
    cells.close()


@pytest.fixture
def grid(reference: Cells, cluster: Any) -> Iterator[Cells]:
    """The cells wait."""
    reference.executor = ["--executor", "ray", "--executor-set", f"address={cluster.address}"]
    reference.environment["HOME"] = os.environ["HOME"]
    reference.close_gate()
    yield reference
    reference.open_gate()


def test_a_worker_and_a_node_that_are_lost_are_replaced(grid: Cells, cluster: Any) -> None:
    command = grid.start("lost", SEEDS)
    grid.waiting(SEEDS)[0].kill()
    command.says("once more from step 4")
    (node,) = cluster.worker_nodes
    grid.waiting(SEEDS)
    cluster.remove_node(node, allow_graceful=False)
    until(lambda: command.said().count("once more from step 4") == 2, "a cell of the lost node", grid.patience)
    grid.open_gate()
    assert command.end() == 0 and grid.runs("lost") == grid.runs("one")


def test_a_head_that_is_lost_is_reported_and_the_same_command_goes_on_elsewhere(grid: Cells, cluster: Any) -> None:
    command = grid.start("head", SEEDS)
    grid.waiting(SEEDS)
    address = cluster.address
    cluster.head_node.kill_gcs_server()
    assert command.end() == 70
    assert command.said().count("failed: ") == SEEDS and f"({address}) does not answer" in command.said()
    grid.executor = ["--executor", "local", "--workers", "1"]
    grid.open_gate()
    again = grid.start("head", SEEDS)
    assert again.end() == 0 and grid.runs("head") == grid.runs("one")


def test_a_killed_command_started_again_and_two_at_once(grid: Cells) -> None:
    command = grid.start("again", SEEDS)
    grid.waiting(SEEDS)
    command.process.send_signal(signal.SIGKILL)
    commands = [grid.start("again", SEEDS) for _ in range(2)]
    grid.waiting(SEEDS)
    grid.open_gate()
    assert [command.end() for command in commands] == [0, 0] and grid.runs("again") == grid.runs("one")


def test_what_no_node_has_is_said(grid: Cells) -> None:
    command = grid.start("large", 1, "--executor-set", "num_cpus=2")
    command.says("no node of the ray cluster has CPU=2, GPU=0: the cells wait until one joins")
    command.process.send_signal(signal.SIGINT)
    assert command.end() == 130
