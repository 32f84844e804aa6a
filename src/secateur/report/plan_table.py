"""The plan of a run: its record, and how it reads on a terminal."""

import math

from pydantic import Field

from secateur.report.progress_state import about
from secateur.schema import Record
from secateur.space.cost import WORDS

# Of the expected time: whole runs took .8 to 1.6 of it on a machine that others used too (docs/log.md); an allowance,
# not an interval.
RANGE = (0.6, 1.7)


class PlannedSet(Record):
    """Text of one role."""

    documents: int | None = Field(description="that the role may take tokens from; null where no text was given")
    tokens: int


class PlannedTarget(Record):
    """An export target, and why it cannot be had where it cannot."""

    name: str
    reason: str | None = Field(description="null where it is open")


class PlannedCost(Record):
    """What the budget leaves of a cost, over architectures drawn at the budget."""

    name: str
    dense: float
    least: float
    most: float
    ceiling: float | None = Field(description="null where the budget does not limit it")


class RunPlan(Record):
    """What a run would do."""

    family: str
    num_layers: int
    total_parameters: int
    decoder_parameters: int
    log10_space: float = Field(description="log10 of the number of architectures in the search space")
    log10_in_band: float | None = Field(description="of those inside the budget band; null where it is not counted")
    num_measurements: int = Field(description="architectures measured by the search, at most")
    alternative_measurements: int = Field(description="measured besides, to say what layers alike cost")
    rounds: int = Field(description="fits of the predictor, at most")
    seconds: float = Field(description="expected of the stages after loading")
    stage_seconds: dict[str, float]
    load_seconds: float = Field(description="that loading took just now")
    probe_seconds: float
    probe_tokens: int
    peak_bytes: int = Field(description="of memory, about")
    disk_bytes: int = Field(description="in the run folder, about; with what is there during the calibration only")
    costs: tuple[PlannedCost, ...]
    targets: tuple[PlannedTarget, ...]
    target: str = Field(description="what the run would export to")
    sets: dict[str, PlannedSet]
    text_given: bool


def plan_lines(plan: RunPlan) -> dict[str, list[str]]:
    """Give the lines of a plan by what they are about."""
    least, most = (about(factor * plan.seconds) for factor in RANGE)
    stages = ", ".join(f"{name} {about(seconds)}" for name, seconds in plan.stage_seconds.items())
    return {
        "model": [
            f"{plan.family}, {plan.num_layers} layers, {plan.total_parameters:,} parameters, "
            f"{plan.decoder_parameters:,} of them in decoder layers"
        ],
        "text": _text_lines(plan),
        "budget": [_cost_line(cost) for cost in plan.costs],
        "space": [_space_line(plan)],
        "measuring": [_measuring_line(plan)],
        "time": [
            f"about {about(plan.seconds)} ({least} to {most}) on this machine as busy as it is now: {stages}",
            f"from all kinds of work in miniature: {plan.probe_seconds:.1f} s, two layers, {plan.probe_tokens:,} tokens"
            f"; loading took {plan.load_seconds:.1f} s",
        ],
        "memory": [f"about {size(plan.peak_bytes)} at most; disk: about {size(plan.disk_bytes)} in the run folder"],
        "export": [_target_line(target, plan) for target in plan.targets],
    }


def _text_lines(plan: RunPlan) -> list[str]:
    lines = []
    for role, own in plan.sets.items():
        of = f" of {own.documents:,} documents" if own.documents is not None else ""
        lines.append(f"{role}: {own.tokens:,} tokens{of}")
    if not plan.text_given:
        lines.append("no text was given: these are the configured numbers; a run needs --data")
    return lines


def _cost_line(cost: PlannedCost) -> str:
    unit = WORDS[cost.name].unit
    line = f"{cost.least:,.0f} to {cost.most:,.0f} {unit}" if cost.least < cost.most else f"{cost.most:,.0f} {unit}"
    ceiling = f", at most {cost.ceiling:,.0f}" if cost.ceiling is not None else ""
    return f"{line} ({cost.least / cost.dense:.2f} to {cost.most / cost.dense:.2f} of dense{ceiling})"


def _space_line(plan: RunPlan) -> str:
    line = f"{power(plan.log10_space)} architectures"
    return line if plan.log10_in_band is None else f"{line}, {power(plan.log10_in_band)} of them at the budget"


def _measuring_line(plan: RunPlan) -> str:
    line = f"{plan.num_measurements} architectures at most"
    if plan.rounds:
        line += f", in {plan.rounds} rounds of the predictor"
    if plan.alternative_measurements:
        line += f"; {plan.alternative_measurements} more to say what layers alike cost"
    return line


def _target_line(target: PlannedTarget, plan: RunPlan) -> str:
    chosen = " (asked for)" if target.name == plan.target else ""
    return f"{target.name}{chosen}: {'open' if target.reason is None else 'not open: ' + target.reason}"


def power(exponent: float) -> str:
    """Write ten to an exponent as people read it: `240`, `1.3e+21`."""
    if exponent < 5:
        return f"{10**exponent:,.0f}"
    whole = math.floor(exponent)
    return f"{10 ** (exponent - whole):.1f}e+{whole}"


def size(num_bytes: int) -> str:
    """Write bytes as `1.2 GB` or `34 MB`."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
