"""Candidates measured by workers: the driver gives architectures out, and is given measurements back."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from secateur.config import SOURCE_FIELDS, RunConfig
from secateur.data import IN_MEMORY
from secateur.errors import ConfigError, ExecutionError
from secateur.execution.pool import Opening, Pool
from secateur.execution.processes import ProcessPool
from secateur.execution.ray_pool import RayPool
from secateur.execution.settings import Execution
from secateur.execution.supervisor import Faults, Supervisor
from secateur.runs.folder import RunFolder
from secateur.schema import Record
from secateur.space.architecture import Architecture
from secateur.space.candidate import Measurement, Protocol

# What is measured beside the selection set: nothing, the groups of text, or what may drop.
Of = Literal["text", "groups", "drop"]


class Kind(Record):
    """What is measured of architectures, as a worker is told it.

    Attributes:
        batches: First of the selection set's batches, and the one behind the last; all of them if not given.
    """

    after: Literal["slices", "reconstruction"]
    of: Of = "text"
    batches: tuple[int, int] | None = None


# What a worker is told where it is to go through parts of the calibration set, by number.
CALIBRATE = "calibrate"


@dataclass(frozen=True)
class Told:
    """What a worker of a run is told, and what it must then see.

    Attributes:
        hidden_size: That the run goes on with, where it is not the dense model's.
        sees: Versions, model and texts, in words.
    """

    folder: RunFolder
    hidden_size: int | None
    sees: str


# Makes the pool that an opening is for.
StartPool = Callable[[Opening], Pool]


@dataclass
class Workers:
    """The workers of a run, started when the first candidate is to be measured and ended with the run.

    Attributes:
        start: Makes their pool.
    """

    start: StartPool
    execution: Execution
    _supervisor: Supervisor | None = field(default=None, init=False)

    def measure(
        self,
        kind: Kind,
        protocol: Protocol,
        told: Told,
        architectures: Sequence[Architecture],
        share: float = 1.0,
    ) -> Iterator[Measurement]:
        """Give measurements as they are made, in any order.

        Args:
            share: Of all that was asked for and is not there, what has to be before this ends; later calls give the
                rest, and one without architectures waits for all of it.

        Raises:
            ExecutionError: Workers cannot be started, or do not measure what this process would.
        """
        supervisor = self._started(told)

        def failed(item: str, reason: str) -> str:
            architecture = Architecture.model_validate_json(item)
            return Measurement(
                architecture=architecture, protocol=protocol.key, status="failed", reason=reason, seconds=0.0
            ).model_dump_json()

        items = [architecture.model_dump_json() for architecture in architectures]
        for item, text in supervisor.results(kind.model_dump_json(), items, failed, share=share):
            measurement = Measurement.model_validate_json(text)
            if measurement.protocol != protocol.key or measurement.architecture.model_dump_json() != item:
                raise ExecutionError(
                    f"a worker measured something else than was asked ({measurement.protocol}, expected "
                    f"{protocol.key}): give all machines the same files and versions"
                )
            yield measurement

    def calibrate(self, parts: Sequence[int], told: Told) -> Iterator[int]:
        """Give the parts of the calibration set as their sums are there, in the folder.

        Raises:
            ExecutionError: Workers cannot be started, or none can go through a part.
        """

        def failed(part: str, reason: str) -> str:
            raise ExecutionError(
                f"no worker could go through part {part} of the calibration set ({reason}); give them more memory or "
                "lower evaluation.batch_tokens, then go on with `secateur resume`"
            )

        supervisor = self._started(told)
        items = [str(part) for part in parts]
        for part, _ in supervisor.results(CALIBRATE, items, failed, batch_items=1):
            yield int(part)

    @property
    def faults(self) -> Faults:
        """Give what went wrong and was mended."""
        return self._supervisor.faults if self._supervisor else Faults()

    def close(self) -> None:
        """End them."""
        if self._supervisor is not None:
            self._supervisor.close()
            self._supervisor = None

    def _started(self, told: Told) -> Supervisor:
        if self._supervisor is None:
            # Of one machine's memory each takes its part; a cluster gives every worker what it was asked for.
            sharing = self.execution.local_workers if self.execution.executor == "processes" else 1
            place = str(told.folder.root.absolute())
            asked = {"folder": place, "sharing": sharing, "hidden_size": told.hidden_size}
            opening = Opening(module="secateur.stages.worker", function="open_run", argument=json.dumps(asked))
            batches = self.execution.batch_candidates, self.execution.batch_seconds
            self._supervisor = Supervisor(self.start(opening), *batches, expected=told.sees)
        return self._supervisor


def refuse_execution(execution: Execution, config: RunConfig) -> None:
    """Refuse workers that could not see what they are to measure.

    Raises:
        ConfigError: The model or texts are in the memory of this process.
    """
    data = config.data
    named = [*data.groups.values(), *(source for name in SOURCE_FIELDS for source in getattr(data, name))]
    in_memory = config.model.in_memory or any(source.startswith(IN_MEMORY) for source in named)
    if execution.executor != "local" and in_memory:
        raise ConfigError(
            f"executor={execution.executor}: model and text must be in files, since workers read them for themselves, "
            "but some are in memory; save them first, or leave the executor local"
        )


def pools_of(execution: Execution) -> StartPool:
    """Give what starts the workers that an execution asks for."""
    if execution.executor == "ray":
        return lambda opening: RayPool(opening, execution)
    return lambda opening: ProcessPool(opening, execution.local_workers, execution.threads)


@contextmanager
def started(execution: Execution) -> Iterator[Workers | None]:
    """Give the workers that an execution asks for, and end them; None where this process does everything."""
    if execution.executor == "local":
        yield None
        return
    workers = Workers(pools_of(execution), execution)
    try:
        yield workers
    finally:
        workers.close()
