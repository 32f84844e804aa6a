"""A run on a Ray cluster of two nodes: an actor and then a whole node are killed, and the answer is the same.

The nodes are Ray started twice on this machine, the second told where the first is, as one does on two machines.
"""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from small_runs import Finished, assert_same

from secateur.config import RunConfig, to_yaml
from secateur.report.record import Report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra: ray"),
]
RAY = Path(sys.executable).parent / "ray"


@dataclass
class Nodes:
    """Two nodes of a cluster, whose first has its token in a file that the others find too."""

    address: str
    environment: dict[str, str]
    second: list[psutil.Process]

    def kill_second(self) -> int:
        """Kill every process of the second node; say how many there were."""
        there = [each for process in self.second for each in (*process.children(recursive=True), process)]
        for process in there:
            process.kill()
        return len(there)

    def begin(self, config: RunConfig, root: Path, *more: str) -> "subprocess.Popen[str]":
        """Begin a run on them, told line by line."""
        (root.parent / "config.yaml").write_text(to_yaml(config))
        given = ["--config", str(root.parent / "config.yaml"), "--out", str(root), "--json-progress"]
        who = ["--executor", "ray", "--ray-address", self.address, "--execution", "batch_candidates=4", *more]
        return subprocess.Popen(
            [sys.executable, "-m", "secateur", "prune", *given, *who],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def raylets() -> list[psutil.Process]:
    return [each for each in psutil.process_iter() if each.name() == "raylet"]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, folder = f"127.0.0.1:{port}", tmp_path_factory.mktemp("ray")
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "token"}

    def start(*where: str) -> None:
        subprocess.run([RAY, "start", *where, "--num-cpus=1"], env=environment, check=True, capture_output=True)

    start("--head", f"--port={port}", "--include-dashboard=false")
    first = {each.pid for each in raylets()}
    start(f"--address={address}")
    yield Nodes(address, environment, [each for each in raylets() if each.pid not in first])
    subprocess.run([RAY, "stop", "--force"], env=environment, check=False, capture_output=True)


def finish(process: "subprocess.Popen[str]", root: Path) -> Finished:
    assert process.stderr is not None
    assert process.wait() == 0, process.stderr.read()
    return Finished(Report.model_validate_json((root / "report.json").read_text()), root, [])


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_so_many_actors_measure_the_same(
    nodes: Nodes, small_config: RunConfig, finished: Finished, tmp_path: Path, workers: int
) -> None:
    root = tmp_path / "run"
    process = nodes.begin(small_config, root, f"--workers={workers}", "--execution", "cpus=0.5")
    process.communicate()
    assert_same(finished, finish(process, root))


def test_an_actor_and_then_a_node_are_lost_and_the_answer_is_the_same(
    nodes: Nodes, small_config: RunConfig, finished: Finished, tmp_path: Path
) -> None:
    """The last test of the nodes: one of them is gone then."""
    root, killed = tmp_path / "run", {"actors": 0, "of the node": 0}
    process = nodes.begin(small_config, root, "--workers=2")
    assert process.stdout is not None
    for line in process.stdout:
        said = json.loads(line)
        if said.get("event") != "advanced" or said["stage"] != "search":
            continue
        if said["done"] == 6:
            actors = [each for each in psutil.process_iter() if each.name().startswith("ray::RayWorker")]
            assert len(actors) == 2, "one on each node"
            actors[0].kill()
            killed["actors"] += 1
        if said["done"] == 20:
            killed["of the node"] = nodes.kill_second()
    assert_same(finished, finish(process, root))
    assert killed["actors"] == 1
    assert killed["of the node"] >= 2, "the node and what it ran"
