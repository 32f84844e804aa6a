"""A run on a Ray cluster of two nodes: an actor and then a whole node are killed, and the answer is the same.

The nodes are Ray started twice on this machine, the second told where the first is, as one does on two machines.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from small_runs import Finished, assert_same

from secateur.config import RunConfig
from secateur.execution.settings import Execution
from secateur.pipeline import run_pipeline
from secateur.runs.progress import Event, StageAdvanced

ray = pytest.importorskip("ray", reason="needs the extra: ray")
pytestmark = pytest.mark.slow


@dataclass
class Nodes:
    """Two nodes of a cluster."""

    address: str
    second: list[psutil.Process]

    def kill_second(self) -> int:
        """Kill every process of the second node."""
        there = [each for process in self.second for each in (process, *process.children(recursive=True))]
        for process in there:
            process.kill()
        return len(there)


def raylets() -> list[psutil.Process]:
    return [each for each in psutil.process_iter() if each.name() == "raylet"]


@pytest.fixture
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    # Paths of sockets must be short.
    folder = tmp_path_factory.mktemp("ray", numbered=True)
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(folder)}

    def start(*where: str) -> None:
        command = [Path(sys.executable).parent / "ray", "start", *where, "--num-cpus=1", "--disable-usage-stats"]
        subprocess.run(command, env=environment, check=True, capture_output=True)

    start("--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false")
    first = {each.pid for each in raylets()}
    start(f"--address={address}", "--node-ip-address=127.0.0.1")
    yield Nodes(address, [each for each in raylets() if each.pid not in first])
    subprocess.run([Path(sys.executable).parent / "ray", "stop", "--force"], check=False, capture_output=True)


def test_an_actor_and_then_a_node_are_lost_and_the_answer_is_the_same(
    nodes: Nodes, small_config: RunConfig, finished: Finished, tmp_path: Path
) -> None:
    events: list[Event] = []
    killed: dict[str, int] = {}

    def disturb(event: Event) -> None:
        events.append(event)
        if not isinstance(event, StageAdvanced) or event.stage != "search":
            return
        if event.done == 6:
            actors = [each for each in psutil.process_iter() if each.name().startswith("ray::RayWorker")]
            assert len(actors) == 2, "one on each node"
            os.kill(actors[0].pid, signal.SIGKILL)
            killed["actors"] = 1
        if event.done == 20:
            killed["of the node"] = nodes.kill_second()

    execution = Execution(executor="ray", ray_address=nodes.address, workers=2, batch_candidates=4)
    report = run_pipeline(small_config, tmp_path / "run", disturb, execution=execution)
    assert killed["actors"] == 1
    assert killed["of the node"] >= 1
    assert_same(finished, Finished(report, tmp_path / "run", events))


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_so_many_actors_measure_the_same(
    nodes: Nodes, small_config: RunConfig, finished: Finished, tmp_path: Path, workers: int
) -> None:
    events: list[Event] = []
    execution = Execution(executor="ray", ray_address=nodes.address, workers=workers, batch_candidates=4, cpus=0.5)
    report = run_pipeline(small_config, tmp_path / "run", events.append, execution=execution)
    assert_same(finished, Finished(report, tmp_path / "run", events))
