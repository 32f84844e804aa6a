"""Where work is done, and how it is cut up. No result depends on it, so it is part of no run's configuration."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import psutil
from pydantic import Field, ValidationError

from secateur.errors import ConfigError, suggestion
from secateur.schema import Record

# Threads per worker process where it was not said: with one each, workers are not in each other's way.
USUAL_THREADS = 1


class Execution(Record):
    """Who measures candidates."""

    executor: Literal["local", "processes", "ray"] = Field(
        "local", description="this process, processes of this machine, or a Ray cluster"
    )
    workers: int = Field(0, ge=0, description="0: as many as there is room for")
    threads: int = Field(USUAL_THREADS, ge=1, description="per worker, on a CPU")
    batch_candidates: int = Field(8, ge=1, description="that a worker is given at once, at most")
    batch_seconds: float | None = Field(
        None, gt=0, description="after which a worker that does not answer is ended; default: 20 times what is usual"
    )
    ray_address: str = Field("auto", description="ray: of a running cluster, auto to find it, or local to start one")
    cpus: float = Field(1.0, gt=0, description="ray: per worker")
    gpus: float = Field(0.0, ge=0, description="ray: per worker; a half lets two share one")
    memory: int = Field(0, ge=0, description="ray: bytes per worker that must be free; 0: not asked for")

    @property
    def local_workers(self) -> int:
        """Give how many processes this machine runs."""
        cores = len(psutil.Process().cpu_affinity() or ()) or psutil.cpu_count() or 1
        return self.workers or max(1, cores // self.threads)


LOCAL = Execution()


def execution_from(given: Mapping[str, Any], assignments: Sequence[str]) -> Execution:
    """Read an execution as a user writes it.

    Args:
        given: Fields; None where nothing was said.
        assignments: More of them, as `field=value`.

    Raises:
        ConfigError: A name or a value is wrong, or something was said of workers where there are none.
    """
    said = {name: value for name, value in given.items() if value is not None}
    for text in assignments:
        name, separator, value = text.partition("=")
        if not separator or name not in Execution.model_fields:
            raise ConfigError(f"--execution {text!r}: expected field=value; {suggestion(name, Execution.model_fields)}")
        said[name] = value
    try:
        execution = Execution.model_validate(said)
    except ValidationError as error:
        [first, *_] = error.errors()
        name = ".".join(map(str, first["loc"]))
        raise ConfigError(f"execution: {name}={said.get(name)!r} cannot be used: {first['msg']}") from error
    if execution.executor == "local" and said.keys() - {"executor"}:
        raise ConfigError(
            f"{', '.join(sorted(said.keys() - {'executor'}))} were given, but this process measures by itself; add "
            "--executor processes or --executor ray"
        )
    return execution
