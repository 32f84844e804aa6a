"""Losses over architectures that need no model: what a search is held to, in a fraction of a second."""

import numpy as np

from secateur.model.shape import BlockShape, DenseShape
from secateur.search.task import SearchTask
from secateur.space.candidate import Measurement
from secateur.space.cost import Budget
from secateur.space.sampling import sample_architectures
from secateur.space.search_space import define_space

NUM_MEASUREMENTS = 90
SHAPE = DenseShape(
    hidden_size=64,
    num_layers=4,
    num_query_heads=16,
    num_kv_heads=8,
    head_dim=8,
    ffn_width=128,
    vocab_size=100,
    attention=BlockShape(num_groups=8, parameters_per_group=3072, parameters_constant=64, weights_per_group=3072),
    mlp=BlockShape(num_groups=128, parameters_per_group=192, parameters_constant=64, weights_per_group=192),
    parameters_outside=12_864,
)
# Every level of every module costs the same, but for the norms of blocks that go whole.
SPACE = define_space(SHAPE, ffn_levels=9, kv_levels=9)
BUDGET = Budget.from_keep(SHAPE, 0.6, 0.017)


class Problem:
    """A loss over architectures, and what was asked of it.

    `kl_of` gives the loss, None where measuring fails; `targets_of` what else is measured. `batches` holds the
    candidates measured, in the order in which they came.
    """

    def __init__(self, kl_of, space=SPACE, budget=BUDGET, targets_of=lambda _architecture: {}):
        self.kl_of, self.targets_of = kl_of, targets_of
        self.space, self.budget = space, budget
        self.batches = []

    @property
    def candidates(self):
        return [candidate for batch in self.batches for candidate in batch]

    @property
    def measured(self):
        return [candidate.architecture.key for candidate in self.candidates]

    @property
    def errors(self):
        """Reconstruction errors that know nothing of the loss."""
        return [{width: 0.1 * (1 - width / max(options[-1], 1)) for width in options} for options in self.space.options]

    def measure(self, candidates):
        self.batches.append(candidates)
        return [self.measurement(candidate.architecture) for candidate in candidates]

    def measurement(self, architecture, **fields):
        kl = self.kl_of(architecture)
        outcome = {"status": "failed", "reason": "kl=nan: not finite"}
        if kl is not None:
            outcome = {"status": "measured", "kl": kl, "loss": 1.0, "targets": self.targets_of(architecture)}
        return Measurement(architecture=architecture, protocol="planted", seconds=0.0, **(outcome | fields))

    def task(self, **changes):
        settings = {
            "space": self.space,
            "budget": self.budget,
            "errors": self.errors,
            "measure": self.measure,
            "num_measurements": NUM_MEASUREMENTS,
            "num_rounds": 3,
            "initial_share": 0.35,
            "seed": 0,
        }
        return SearchTask(**(settings | changes))

    def admits(self, architecture):
        """Whether an architecture is of the space and inside the budget band."""
        return self.budget.admits(self.space.decoder_parameters(self.space.levels(architecture)))


class PlantedProblem(Problem):
    """A loss that is least at one architecture of the band: whatever a module has below the planted width costs.

    It adds up over modules. The reconstruction errors that the search is told know nothing of the plant, so it has to
    be learned. With `noise` the loss is noise and nothing else.
    """

    def __init__(self, seed, noise=0.0):
        super().__init__(self.noise_of if noise else self.deficit_of)
        # Far from uniform, where half of all random draws would be near it.
        drawn = sample_architectures(SPACE, BUDGET, 20, seed=1_000 + seed)
        self.planted = max(drawn, key=lambda architecture: np.std(architecture.kept_ratios(SHAPE)))
        self.weights = np.random.default_rng(seed).uniform(0.5, 2.0, size=SPACE.num_modules)
        self.noise = noise

    def deficit_of(self, architecture):
        deficit = np.array(self.planted.kept_ratios(SHAPE)) - np.array(architecture.kept_ratios(SHAPE))
        return 0.01 + float((self.weights * np.maximum(deficit, 0)).sum())

    def noise_of(self, architecture):
        return float(np.random.default_rng(int(architecture.key, 16)).lognormal(sigma=self.noise))

    def distance(self, architecture):
        """Mean absolute difference of kept ratios to the plant."""
        return np.abs(np.array(self.planted.kept_ratios(SHAPE)) - np.array(architecture.kept_ratios(SHAPE))).mean()
