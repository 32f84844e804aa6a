"""Stages by themselves, second part: architectures are measured, and searched."""

from collections.abc import Callable, Mapping, Sequence

from secateur.api.foundations import EVALUATION, walk_of
from secateur.config import RunConfig, SearchConfig, build_config
from secateur.data import Role, TokenSet
from secateur.errors import ConfigError, suggestion
from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.measure import measure
from secateur.evaluation.precision import measuring_dtype
from secateur.evaluation.stitched import Memory, StitchedModel
from secateur.model.loading import DenseModel
from secateur.pruning.bank import WeightBank
from secateur.schema import digest
from secateur.search.methods import SEARCHES
from secateur.search.task import Found, SearchTask
from secateur.space.architecture import Architecture
from secateur.space.candidate import Measurement, Protocol
from secateur.space.cost import Budget
from secateur.space.search_space import SearchSpace

SEARCH = SearchConfig()


class Measurer:
    """Measures architectures on a selection set, by slices of a weight bank.

    The dense model is run on the set once. States of architectures that begin alike are shared, within one call and
    between calls.
    """

    def __init__(
        self,
        dense: DenseModel,
        bank: WeightBank,
        selection: TokenSet,
        *,
        batch_tokens: int = EVALUATION.batch_tokens,
        top_k: int | None = EVALUATION.top_k,
        dtype: str = EVALUATION.dtype,
        memory: Memory | None = None,
    ) -> None:
        """Run the dense model.

        Args:
            selection: The selection set; another role is refused.
            batch_tokens: Tokens per pass.
            top_k: Dense probabilities that are kept per token where all of them take more than 1 GiB; None keeps all.
            dtype: Of the matrix products: `auto`, `float32` or `bfloat16`.
            memory: What hidden states may take.
        """
        walk = walk_of(dense)
        tokens = selection.expect(Role.SELECTION)
        reference = DenseReference(walk, tokens, max(1, batch_tokens // tokens.sequence_length), top_k)
        products = measuring_dtype(dtype, dense.model)
        self._stitched = StitchedModel(walk, bank, reference, memory, products)
        self.protocol = Protocol(
            model=dense.fingerprint(),
            tokens=tokens.fingerprint,
            num_tokens=tokens.num_tokens,
            sequence_length=tokens.sequence_length,
            dtype=str(products),
            top_k=reference.top_k,
            bank=digest([sorted(module.errors.items()) for module in bank.modules]),
        )

    def measure(self, architectures: Sequence[Architecture]) -> list[Measurement]:
        """Measure architectures, in the order given: KL to the dense model and loss, nats per token.

        What goes wrong numerically is a measurement of its own, with a reason and no numbers.
        """
        seen = measure(self._stitched, architectures, self.protocol)
        found = {measurement.architecture.key: measurement for measurement in seen}
        return [found[architecture.key] for architecture in architectures]


def search_architectures(
    space: SearchSpace,
    budget: Budget,
    bank: WeightBank,
    measurer: Measurer,
    *,
    measurements: int = SEARCH.measurements,
    rounds: int = SEARCH.rounds,
    predictor: str = SEARCH.predictor,
    method: str = SEARCH.method,
    seed: int = 0,
    heuristics: Mapping[str, Architecture] | None = None,
    advance: Callable[[Measurement], None] = lambda _measurement: None,
) -> Found:
    """Search the space at the budget: measure, fit, propose, round after round; all by slices of the bank.

    A run measures a share of its candidates after sequential reconstruction as well, which this leaves out.

    Args:
        measurements: Architectures measured in all; at least 25.
        rounds: Fits of the predictor, each followed by a batch that it proposes.
        predictor: A name of `search.predictor`.
        method: `secateur`, `random`, `evolutionary` or `additive`.
        heuristics: Architectures to begin with, by name, besides those that the method knows itself.
        advance: Called after every measurement.

    Returns:
        What was found: `best` is the measurement with the least KL, `finalists` are all of them, best first, `rounds`
        say how well the predictor did.

    Raises:
        ConfigError: A name is unknown, or the numbers are out of range.
        SecateurError: Too many measurements failed.
    """
    if method not in SEARCHES:
        raise ConfigError(f"method {method!r} searches nothing; {suggestion(method, SEARCHES)}")
    fields = {"measurements": measurements, "rounds": rounds, "predictor": predictor, "method": method}
    settings: RunConfig = build_config([{"search": fields}])

    def measured(architectures: list[Architecture]) -> list[Measurement]:
        found = measurer.measure(architectures)
        for each in found:
            advance(each)
        return found

    task = SearchTask(
        space=space,
        budget=budget,
        errors=[bank.errors(module) for module in range(space.num_modules)],
        measure=lambda batch: measured([candidate.architecture for candidate in batch]),
        num_measurements=settings.search.measurements,
        num_rounds=settings.search.rounds,
        initial_share=settings.search.initial_share,
        predictor=settings.search.predictor,
        acquisition=settings.search.acquisition,
        least_improvement=settings.search.least_improvement,
        seed=seed,
        heuristics=heuristics or {},
    )
    return SEARCHES[settings.search.method](task)
