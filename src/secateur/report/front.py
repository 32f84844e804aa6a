"""`front.json`: the Pareto front among what a search measured, every point of which can be exported later."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field
from rich.box import SIMPLE_HEAD
from rich.table import Table

from secateur.model.shape import DenseShape
from secateur.report.record import MadePoint, Traded
from secateur.schema import Record
from secateur.search.objectives import COSTS, DISPARITY, QUALITY, Objectives
from secateur.search.pareto import pareto_front
from secateur.search.task import Found, ranked
from secateur.space.architecture import Architecture
from secateur.space.candidate import Measurement
from secateur.space.cost import Cost, cost_of

UNITS = {
    DISPARITY: "max - min over groups of log(perplexity / dense perplexity), nats per token",
    "decoder_parameters": "parameters of the transformer blocks",
    "total_parameters": "parameters of the whole model",
    "flops_per_token": "floating-point operations of the blocks per token",
    "kv_cache_bytes_per_token": "bytes per token",
}
QUALITY_UNIT = "KL(dense || model), nats per token"
GROUP_QUALITY_UNIT = "mean over groups of log(perplexity / dense perplexity), nats per token"


class FrontPoint(Record):
    """One architecture, as the search measured it on the selection sets."""

    number: int = Field(description="K of `secateur export DIR --point K`; 1 has the best quality")
    architecture: Architecture
    objectives: dict[str, float] = Field(description="by name; less is better in all")
    log_ratios: dict[str, float] = Field(description="per group: log(perplexity / dense perplexity), nats per token")
    kl: float = Field(description="KL(dense || model) on the selection set, nats per token")
    cost: Cost
    made: dict[str, float] | None = Field(
        None, description="objectives of the model made as the result is; null where the run has not made it"
    )
    chosen: bool = Field(description="what the run has exported")


class Front(Record):
    """The Pareto front of a run, best quality first.

    The chosen architecture is always among the points, even where finalists were compared once more after
    reconstruction on the whole calibration set and one won that had measured worse before.
    """

    objectives: dict[str, str] = Field(description="name -> unit")
    dense_losses: dict[str, float] = Field(
        description="of the dense model per group, selection windows, nats per token"
    )
    reconstructed: bool = Field(description="measured after sequential reconstruction, else by slices of the bank")
    num_measurements: int = Field(description="measurements the front was taken from")
    points: tuple[FrontPoint, ...]

    def traded(self) -> Traded | None:
        """Say what the chosen point gave up for less disparity; None without groups."""
        if DISPARITY not in self.objectives:
            return None
        first, last = self.points[0], next(point for point in self.points if point.chosen)
        best, chosen = first.objectives, last.objectives
        if first.made is not None and last.made is not None:
            best, chosen = first.made, last.made
        return Traded(
            best_quality_disparity=best[DISPARITY],
            disparity=chosen[DISPARITY],
            mean_perplexity_ratio=math.exp(chosen[QUALITY] - best[QUALITY]),
        )


def recorded_objectives(objectives: Objectives) -> tuple[str, ...]:
    """Give the objectives of the front: the search's, and where it has one alone, what it is worth weighing against."""
    if len(objectives.names) > 1:
        return objectives.names
    return (QUALITY, DISPARITY) if objectives.groups else (QUALITY, "decoder_parameters")


def front_of(found: Found, shape: DenseShape, chosen: Architecture, made: Sequence[MadePoint] = ()) -> Front:
    """Take the Pareto front of what a search measured at the budget.

    Args:
        made: What the choice was between, where models were made for it.
    """
    objectives, measured = found.objectives, ranked(found.measurements)
    as_made = {point.architecture: point.objectives for point in made}
    names = recorded_objectives(objectives)
    values = [objectives.measured(measurement, shape, names) for measurement in measured]
    on_front = pareto_front(np.array([list(each.values()) for each in values]))
    listed = {*on_front, *(index for index, each in enumerate(measured) if each.architecture == chosen)}
    ordered = sorted(listed, key=lambda index: (values[index][QUALITY], measured[index].architecture.key))
    points = [
        _point(number, measured[index], values[index], objectives, shape, chosen, as_made)
        for number, index in enumerate(ordered, start=1)
    ]
    quality_unit = GROUP_QUALITY_UNIT if objectives.groups else QUALITY_UNIT
    return Front(
        objectives={
            name: quality_unit if name == QUALITY else UNITS.get(name, "in the unit of its name") for name in names
        },
        dense_losses=dict(objectives.dense_losses),
        reconstructed=found.reconstructed,
        num_measurements=len(measured),
        points=tuple(points),
    )


def _point(
    number: int,
    measurement: Measurement,
    values: dict[str, float],
    objectives: Objectives,
    shape: DenseShape,
    chosen: Architecture,
    made: Mapping[Architecture, dict[str, float]],
) -> FrontPoint:
    assert measurement.kl is not None, "ranked measurements have a KL"
    return FrontPoint(
        number=number,
        architecture=measurement.architecture,
        objectives=values,
        log_ratios=objectives.log_ratios(measurement),
        kl=measurement.kl,
        cost=cost_of(shape, measurement.architecture),
        made=made.get(measurement.architecture),
        chosen=measurement.architecture == chosen,
    )


def front_table(front: Front) -> Table:
    """One line per point, with the number to export it by."""
    after = "after sequential reconstruction" if front.reconstructed else "by slices of the bank"
    table = Table(
        title=f"Pareto front of {front.num_measurements} measurements, selection sets, {after}",
        caption="\n".join(f"{name}: {unit}" for name, unit in front.objectives.items()),
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
    )
    for title in ("K", *front.objectives, *(f"log ratio, {group}" for group in front.dense_losses), "", "widths"):
        table.add_column(title, justify="left" if title in ("", "widths") else "right")
    for point in front.points:
        widths = " ".join(f"{layer.kv_heads}/{layer.ffn_width}" for layer in point.architecture.layers)
        table.add_row(
            str(point.number),
            *(f"{value:,.0f}" if name in COSTS else f"{value:.4f}" for name, value in point.objectives.items()),
            *(f"{ratio:.4f}" for ratio in point.log_ratios.values()),
            "chosen" if point.chosen else "",
            widths,
            style="bold" if point.chosen else "",
        )
    return table
