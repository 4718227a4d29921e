"""A sweep on a real cluster of Ray with two nodes, one of which dies."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from flows.sweeps import ray_cluster
from tests.faults.test_sweep_kills import checkpoints, processes
from tests.flows.sweeps.served import wait_for
from tests.flows.test_prefect import free_port
from tests.workspace import TINY, Workspace, environment, make_workspace

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="the extra `ray` is not installed"
    ),
]
GRID = "sweep.grid={distill.matching.lr_img: [0.01, 0.02]}"
LONGER = ("distill.matching.iterations=12", "distill.matching.checkpoint_every=2")
SWEEP = ("distill_sweep", "--name", "on_ray", "--workers", "2")
WAIT_SECONDS = 240
GONE = {"RAY_CLIENT_RECONNECT_GRACE_PERIOD": "10"}  # seconds that Ray waits for a parent


@dataclass(frozen=True)
class Cluster:
    """Two nodes and where they are reached."""

    process: subprocess.Popen[str]
    address: str

    def nodes(self) -> list[psutil.Process]:
        """Return the processes of the nodes, which start those that make units."""
        assert self.process.stdout
        return [psutil.Process(pid) for pid in json.loads(self.process.stdout.readline())]

    def kill_second(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("kill\n")
        self.process.stdin.flush()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    port = free_port()
    # Sockets of Ray lie below this folder, and their paths are short
    with tempfile.TemporaryDirectory(prefix="vl-ray-") as folder:
        own = {
            "RAY_TMPDIR": folder,
            "RAY_USAGE_STATS_ENABLED": "0",
            # Off, Ray takes 127.0.0.1 for the address of its nodes
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            # It starts a process for each parent, and gives it 30 s: too few on a busy machine
            "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "120",
        }
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("two_nodes.py")), str(port)],
            cwd=folder,  # nodes find the code of the sweep, and no other
            env={**environment(), **own},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started = psutil.Process(process.pid)
        yield Cluster(process, f"ray://127.0.0.1:{port}")
        left = started.children(recursive=True)
        process.communicate(timeout=60)
        assert psutil.wait_procs(left, 60)[1] == []


@pytest.fixture(scope="module")
def made(tmp_path_factory, cluster) -> Workspace:
    """A workspace in which the sweep has run without Ray, while the nodes start."""
    folder = tmp_path_factory.mktemp("ray") / "made"
    workspace = make_workspace(folder, (*TINY, *LONGER, "methods.coresets=[random]", GRID))
    workspace.flow("distill_sweep", seconds=280)
    return workspace


def copied(made: Workspace, folder: Path) -> Workspace:
    """Return a copy in which nothing is made."""
    shutil.copytree(made.folder, folder)
    for name in ("data", "reports", ".mlflow"):
        shutil.rmtree(folder / name)
    return Workspace(folder)


@contextlib.contextmanager
def started(
    workspace: Workspace, cluster: Cluster, *options: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Start the sweep; what it says is in a file beside the workspace."""
    with (workspace.folder.parent / "sweep.log").open("w") as log:
        sweep = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *SWEEP, "--pool", "ray", *options],
            cwd=workspace.folder,
            env={**environment(), "RAY_ADDRESS": cluster.address, **GONE},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield sweep
    finally:
        sweep.kill()
        sweep.wait()


def told(workspace: Workspace) -> str:
    return (workspace.folder.parent / "sweep.log").read_text()


def under_way(nodes: list[psutil.Process], name: str) -> list[int]:
    """Return the nodes that make a unit with a part of its name, by what Ray calls a process."""
    found = []
    for place, node in enumerate(nodes):
        for child in node.children():
            with contextlib.suppress(psutil.Error):  # it ends while we look
                title = " ".join(child.cmdline())
                found += [place] * (title.startswith("ray::") and name in title)
    return sorted(found)


def test_units_run_on_both_nodes_and_those_of_a_node_that_dies_on_the_other(
    made, cluster, tmp_path
):
    workspace = copied(made, tmp_path / "copy")
    nodes = cluster.nodes()
    with started(workspace, cluster) as sweep:

        def wait(is_so: Callable[[], object]) -> None:
            wait_for(lambda: is_so() or sweep.poll() is not None, lambda: told(workspace))
            assert sweep.poll() is None, told(workspace)

        wait(lambda: under_way(nodes, "expert_00") == [0, 1])
        wait(lambda: under_way(nodes, "bi_trajectory-4") == [0, 1])
        wait(lambda: len(checkpoints(workspace)) == 2)
        cluster.kill_second()
        assert sweep.wait(WAIT_SECONDS) == 0, told(workspace)
    assert "best: bi_trajectory-4" in told(workspace)
    assert workspace.digests() == made.digests()
    wait_for(lambda: not processes(workspace), lambda: processes(workspace))


def test_a_parent_that_is_killed_leaves_no_unit(made, cluster, tmp_path):
    workspace = copied(made, tmp_path / "copy")
    with started(workspace, cluster) as sweep:
        # Beside the parent and its planner
        wait_for(lambda: len(processes(workspace)) > 2, lambda: told(workspace))
        sweep.kill()
    wait_for(lambda: not processes(workspace), lambda: processes(workspace))


def test_what_ray_cannot_do_is_told_before_anything_starts(made, cluster, tmp_path, monkeypatch):
    workspace = copied(made, tmp_path / "copy")

    def refused(address: str, *options: str) -> str:
        words = (*SWEEP, "--pool", "ray", *options)
        done = workspace.flow(*words, check=False, RAY_ADDRESS=address)
        assert done.returncode == 2 and done.stderr.count("error:") == 1
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "1 CPU and 1 of a card, and no node" in refused(cluster.address, "--num-gpus", "1")
    assert "CPUs and cards of its nodes: 1 and 0" in refused(cluster.address, "--num-gpus", "0.5")
    gone = f"ray://127.0.0.1:{free_port()}"
    assert f"no Ray cluster of this version answers at {gone}" in refused(gone)
    assert "received 'head:6379' in RAY_ADDRESS" in refused("head:6379")
    plain = workspace.flow("distill_sweep", "--num-gpus", "0.5", check=False)
    assert plain.returncode == 2 and "allowed with --pool ray alone" in plain.stderr
    assert not (workspace.folder / "data/prepared").exists()
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match="the extra `ray`"):
        ray_cluster._address()


def test_a_head_that_cannot_start_its_process_is_asked_again(monkeypatch):
    monkeypatch.setattr(ray_cluster, "PAUSE_SECONDS", 0)
    answers = [ConnectionAbortedError("first"), ConnectionAbortedError("second"), None, None]

    def connect() -> None:
        if error := answers.pop(0):
            raise error

    ray_cluster.connected(connect)
    assert answers == [None]
    answers[:] = [ConnectionAbortedError("first"), ConnectionError("refused"), None]
    with pytest.raises(ConnectionError, match="refused"):
        ray_cluster.connected(connect)
    answers[:] = [ConnectionAbortedError(str(number)) for number in range(ray_cluster.TRIES)]
    with pytest.raises(ConnectionAbortedError, match=str(ray_cluster.TRIES - 1)):
        ray_cluster.connected(connect)
    assert answers == []
