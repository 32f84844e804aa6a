"""Options of verbs that measure: who does it."""

from typing import Annotated, Any

import typer

from secateur.cli.completion import complete_executor

ExecutorOption = Annotated[
    str | None,
    typer.Option(
        help="Who measures: local (this process), processes (of this machine) or ray (pip install 'secateur[ray]').",
        autocompletion=complete_executor,
    ),
]
WorkersOption = Annotated[int | None, typer.Option(help="How many; as many as there is room for if not given.")]
RayAddressOption = Annotated[
    str | None, typer.Option(help="Of a running cluster; auto finds one here, local starts one for the run.")
]
ExecutionOption = Annotated[
    list[str] | None,
    typer.Option(help="threads=1, batch_candidates=8, batch_seconds=600, cpus, gpus, memory; docs/workers.md."),
]


def execution_of(
    executor: str | None, workers: int | None, ray_address: str | None, assignments: list[str] | None
) -> Any:
    """Put together who measures.

    Raises:
        ConfigError: A name or a value is wrong, or something was asked of workers and there are none.
    """
    from secateur.execution.settings import execution_from

    given: dict[str, Any] = {"executor": executor, "workers": workers, "ray_address": ray_address}
    return execution_from(given, assignments or [])
