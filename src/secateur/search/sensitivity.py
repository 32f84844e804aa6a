"""Sensitivities at the budget: what each module does by itself to an architecture that is about as good as any.

A module's loss measured in the dense model says what it costs to cut it alone; in a model that is cut everywhere it
costs something else. Summed over an architecture the first ranked with a Kendall tau of .65 and .72, the second with
.81 and .83 (stories260K at 0.8 and 0.5 kept, docs/log.md).
"""

from dataclasses import dataclass

import numpy as np

from secateur.search.task import SearchTask
from secateur.space.candidate import Measurement
from secateur.space.encoding import Sensitivities
from secateur.space.search_space import Levels, SearchSpace

# Fewer widths than this per module, its own beside them, draw no curve.
FEWEST_WIDTHS = 3


@dataclass(frozen=True)
class Sensed:
    """What was measured for sensitivities: the centres, single changes to them, and what the changes say."""

    centres: tuple[Measurement, ...] = ()
    probes: tuple[Measurement, ...] = ()
    sensitivities: tuple[Sensitivities, ...] = ()

    @property
    def num_measurements(self) -> int:
        return len(self.centres) + len(self.probes)


def measure_sensitivities(task: SearchTask, centres: dict[Levels, str], count: int) -> Sensed:
    """Measure single changes to the centres, within so many measurements.

    Args:
        centres: Architectures inside the budget band and what they are called, the most central first; as many are
            used as there are measurements for.

    Returns:
        Nothing where the measurements do not suffice; sensitivities of each centre whose own measurement succeeded.
    """
    free = sum(len(options) > 1 for options in task.space.options)
    # The first of each name: features are called by it.
    by_name = {name: levels for levels, name in reversed(centres.items())}
    first = [levels for levels, name in centres.items() if by_name[name] == levels]
    used = {levels: centres[levels] for levels in first[: count // (FEWEST_WIDTHS * free + 1)]}
    if not used:
        return Sensed()
    per_module = (count // len(used) - 1) // free
    changes = {centre: _changes(task.space, centre, per_module) for centre in used}
    wanted = dict.fromkeys(levels for centre in used for levels in (centre, *changes[centre].values()))
    candidates = [task.candidate(levels, used.get(levels, "sensitivity")) for levels in wanted]
    measured = dict(zip(wanted, task.measure(candidates), strict=True))
    found = [
        Sensitivities(name, _curves(task.space, centre, changes[centre], measured))
        for centre, name in used.items()
        if measured[centre].kl
    ]
    probes = tuple(measurement for levels, measurement in measured.items() if levels not in used)
    return Sensed(tuple(measured[centre] for centre in used), probes, tuple(found))


def _changes(space: SearchSpace, centre: Levels, per_module: int) -> dict[tuple[int, int], Levels]:
    """Give single changes, by module and level: levels spread evenly, both ends among them."""
    changes = {}
    for module, options in enumerate(space.options):
        others = [level for level in range(len(options)) if level != centre[module]]
        places = np.linspace(0, len(others) - 1, min(per_module, len(others))).round().astype(int)
        for level in (others[place] for place in places.tolist()):
            changes[module, level] = (*centre[:module], level, *centre[module + 1 :])
    return changes


def _curves(
    space: SearchSpace, centre: Levels, changes: dict[tuple[int, int], Levels], measured: dict[Levels, Measurement]
) -> tuple[np.ndarray, ...]:
    """Give log(KL / KL of the centre) per option: measured, or linear in the width between what was measured."""
    base = measured[centre].kl
    assert base, "a centre without a KL has no curves"
    curves = []
    for module, options in enumerate(space.options):
        known = {options[centre[module]]: 0.0}
        for level in range(len(options)):
            kl = measured[changes[module, level]].kl if (module, level) in changes else None
            if kl:
                known[options[level]] = float(np.log(kl / base))
        widths = sorted(known)
        curves.append(np.interp(options, widths, [known[width] for width in widths]))
    return tuple(curves)
