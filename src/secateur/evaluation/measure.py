"""Measure candidates by slices of the weight bank."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from secateur.evaluation.divergence import WindowScores
from secateur.evaluation.stitched import StitchedModel
from secateur.space.architecture import Architecture
from secateur.space.candidate import Measurement, Protocol

# What is measured besides, for several architectures at once.
Target = Callable[[Sequence[Architecture]], Sequence[float]]


def measure(
    stitched: StitchedModel[WindowScores],
    architectures: Sequence[Architecture],
    protocol: Protocol,
    targets: Mapping[str, Target] | None = None,
    batches: Sequence[int] | None = None,
) -> Iterator[Measurement]:
    """Measure architectures group by group, in an order that lets them share the most.

    What goes wrong numerically is recorded as a failure, not raised.

    Args:
        targets: What else is measured, by name.
        batches: Numbers of the token set's batches; all if not given.
    """
    for group in stitched.groups(architectures, batches):
        start = time.perf_counter()
        scores = stitched.scores(group, batches)
        others = {name: target(group) for name, target in (targets or {}).items()}
        seconds = (time.perf_counter() - start) / len(group)
        for place, (architecture, score) in enumerate(zip(group, scores, strict=True)):
            own = {name: values[place] for name, values in others.items()}
            yield as_measurement(architecture, protocol, score, own, seconds)


def as_measurement(
    architecture: Architecture,
    protocol: Protocol,
    scores: WindowScores,
    targets: Mapping[str, float],
    seconds: float,
) -> Measurement:
    """Turn scores into a measurement, or into a failure where a number is not finite."""
    kl, loss = float(scores.kl.mean()), float(scores.loss.mean())
    seen = {"kl": kl, "loss": loss, **targets}
    if all(map(math.isfinite, seen.values())):
        return Measurement(
            architecture=architecture,
            protocol=protocol.key,
            status="measured",
            kl=kl,
            loss=loss,
            targets=dict(targets),
            seconds=seconds,
        )
    reason = ", ".join(f"{name}={value}" for name, value in seen.items())
    return Measurement(
        architecture=architecture,
        protocol=protocol.key,
        status="failed",
        reason=f"{reason}: not finite",
        seconds=seconds,
    )


def with_more(before: Measurement, num_before: int, more: Measurement, num_more: int) -> Measurement:
    """Give the measurement on all tokens of two measurements on different ones; `more` says under which protocol.

    Args:
        num_before, num_more: Tokens of each.
    """
    if before.kl is None or before.loss is None or more.kl is None or more.loss is None:
        failed = before if before.kl is None else more
        return failed.model_copy(update={"protocol": more.protocol, "seconds": before.seconds + more.seconds})
    share = num_more / (num_before + num_more)
    return more.model_copy(
        update={
            "kl": before.kl + share * (more.kl - before.kl),
            "loss": before.loss + share * (more.loss - before.loss),
            "seconds": before.seconds + more.seconds,
        }
    )
