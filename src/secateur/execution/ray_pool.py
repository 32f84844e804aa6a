"""Workers as actors of a Ray cluster, on as many nodes as there are.

What goes between nodes is text; Ray's own transport pickles it, and trusts everybody in its cluster.
"""

import importlib
import logging
import os
import time
from collections.abc import Sequence
from typing import Any

from secateur.errors import ConfigError, ExecutionError
from secateur.execution.pool import Answer, Answered, Batch, Event, Lost, Opening, Ready
from secateur.execution.processes import THREADS
from secateur.execution.settings import Execution
from secateur.execution.worker import answer, opened

NEEDS = "executor=ray needs the extra: pip install 'secateur[ray]'"
LOG = logging.getLogger(__name__)
# Seconds between two looks at what the cluster has.
COUNTED_EVERY = 10.0


class RayWorker:
    """An actor: opens what it works with, says so, and answers batches."""

    def __init__(self, opening: str) -> None:
        self._said, self._work = opened(Opening.model_validate_json(opening))

    def said(self) -> str:
        return self._said

    def answer(self, batch: str) -> str:
        return answer(self._work, Batch.model_validate_json(batch)).model_dump_json()


class RayPool:
    """So many actors; one that is lost is followed by another, which waits where there is no room.

    Where their number was left open, it is what the cluster has room for, and follows as nodes join and leave.
    """

    def __init__(self, opening: Opening, execution: Execution) -> None:
        """Connect, and start them.

        Raises:
            ConfigError: Ray is not installed.
            ExecutionError: There is no cluster at the address.
        """
        try:
            import ray  # noqa: PLC0415  an extra
        except ImportError as error:
            raise ConfigError(NEEDS) from error
        self._ray: Any = ray
        self._opening, self._execution, self._started = opening, execution, 0
        self._connected_here = not ray.is_initialized()
        if self._connected_here:
            _connect(ray, execution.ray_address)
        resources: dict[str, Any] = {"num_cpus": execution.cpus, "num_gpus": execution.gpus}
        if execution.memory:
            resources["memory"] = execution.memory
        environment = {"env_vars": dict.fromkeys(THREADS, str(execution.threads))}
        self._actor: Any = ray.remote(max_restarts=0, runtime_env=environment, **resources)(RayWorker)
        self._workers: dict[str, Any] = {}
        # What every worker is asked at present, opening it included: at most one thing each.
        self._asked: dict[Any, str] = {}
        self._ready: set[str] = set()
        self._stopped: dict[str, str] = {}
        self._counted, self._wanted = 0.0, 0
        self._start_missing()

    def poll(self, seconds: float) -> Sequence[Event]:
        self._start_missing()
        if not self._asked:
            time.sleep(seconds)
            return []
        self._ray.wait(list(self._asked), timeout=seconds)
        # One has come; with it all that have.
        done, _ = self._ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)
        events = [self._event(each, self._asked.pop(each)) for each in done]
        self._start_missing()
        return events

    def _event(self, asked: Any, name: str) -> Event:
        try:
            text = self._ray.get(asked)
        except self._ray.exceptions.RayError as error:
            self._workers.pop(name)
            opened_before = name in self._ready
            self._ready.discard(name)
            return Lost(name, self._stopped.pop(name, "") or _reason(error), opened_before)
        if name in self._ready:
            return Answered(name, Answer.model_validate_json(text))
        self._ready.add(name)
        return Ready(name, text)

    def send(self, worker: str, batch: Batch) -> None:
        self._asked[self._workers[worker].answer.remote(batch.model_dump_json())] = worker

    def stop(self, worker: str, reason: str) -> None:
        self._stopped[worker] = reason
        self._ray.kill(self._workers[worker])

    def close(self) -> None:
        for actor in self._workers.values():
            self._ray.kill(actor)
        self._workers.clear()
        self._asked.clear()
        if self._connected_here:
            self._ray.shutdown()

    def _start_missing(self) -> None:
        now = time.monotonic()
        if not self._wanted or (not self._execution.workers and now - self._counted > COUNTED_EVERY):
            self._wanted, self._counted = self._execution.workers or self._room(), now
        while len(self._workers) < self._wanted:
            self._started += 1
            name = f"actor {self._started}"
            self._workers[name] = self._actor.remote(self._opening.model_dump_json())
            self._asked[self._workers[name].said.remote()] = name

    def _room(self) -> int:
        """Give how many workers all nodes have room for, whatever else they do; one at least."""
        has, execution = self._ray.cluster_resources(), self._execution
        wanted = {"CPU": execution.cpus, "GPU": execution.gpus, "memory": float(execution.memory)}
        return max(1, min(int(has.get(name, 0.0) / each) for name, each in wanted.items() if each))


def _connect(ray: Any, address: str) -> None:
    # Nothing is told to anybody outside of the cluster.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _keep_off_standard_output()
    own = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
    except ConnectionError as error:
        raise ExecutionError(
            f"no Ray cluster that lets this process in was found at {address!r}; start one with `ray start --head`, "
            "set RAY_AUTH_MODE=token if it asks for a token, or give --ray-address local"
        ) from error


def _keep_off_standard_output() -> None:
    """Have Ray's own remarks on lost actors logged: it prints them between lines of ours that other programs read.

    Ray has no setting for it. Where a version has no such function, its remarks stay where they are.
    """
    worker: Any = importlib.import_module("ray._private.worker")
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda data, **_: LOG.info("%s", "\n".join(map(str, data.get("lines", ()))))


def _reason(error: BaseException) -> str:
    """Give the line of Ray's message that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = getattr(error, "cause", None)
    return str(cause).splitlines()[-1] if cause else lines[-1] if lines else type(error).__name__
