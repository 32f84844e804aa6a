"""The hidden size, where it may go too: a few sizes are tried at the budget, and the run goes on with the best."""

from dataclasses import replace

import torch

from secateur.data import Role, TokenSet
from secateur.errors import BudgetError
from secateur.evaluation.stitched import score_model
from secateur.inputs import Narrowed
from secateur.model.walk import DecoderWalk
from secateur.pruning.calibration import calibrate
from secateur.pruning.hidden import channel_importance, hidden_parameters, narrow_hidden
from secateur.report.record import HiddenRecord
from secateur.runs.progress import silent, stage_clock
from secateur.schema import Record, derive_seed
from secateur.search.propose import initial_candidates
from secateur.space.cost import COSTS, Budget
from secateur.space.search_space import GPU_MULTIPLE, Levels, hardware_multiple
from secateur.space_inputs import searchable, space_of
from secateur.stages.calibrate import build_run_bank
from secateur.stages.prune import reconstructed
from secateur.stages.run import Run
from secateur.stages.search import search_task

# A size's dense model has so many times the budget's parameters at least: where nothing is left to cut nothing is left
# to search.
ROOM = 1.05
# Of every size: architectures measured by slices, and how many of the best after reconstruction.
TRIED, RECONSTRUCTED = 8, 2


class Tried(Record):
    """What is kept of a hidden size that was tried: the lowest KL at the budget; None where it cannot meet it."""

    kl: float | None


def hidden_stage(run: Run) -> Run:
    """Give the run with the model of the hidden size that does best; the run as it is where nothing may go there.

    Every size is judged by the least KL of a few architectures at the budget that need no search: layers alike, the
    additive optimum and neighbours of it. What is measured is kept, a size at a time; the model is made again by every
    process that goes on with the run.
    """
    if not run.config.space.hidden:
        return run
    sizes = hidden_sizes(run)
    with stage_clock("hidden", run.listener, len(sizes)) as clock:
        order = channel_order(run)
        for size in sizes:
            if run.store.stage(f"hidden {size}") is None:
                _try(run, order, size)
            clock.advance()
        record = _record(run, sizes)
        narrowed = narrowed_run(run, order, record.chosen)
        clock.note = f"{record.chosen} of {record.dense} channels, KL {record.kl[record.chosen]:.4f}"
    if run.store.stage("hidden") is None:
        run.store.end_stage("hidden", clock.seconds, record.model_dump(mode="json"))
    return narrowed


def channel_order(run: Run) -> torch.Tensor:
    """Give the hidden channels, what matters most first."""
    importance = channel_importance(run.inputs.walk, run.dense_streams(run.config.search.reconstructed_tokens))
    return importance.argsort(descending=True, stable=True)


def hidden_record(run: Run) -> HiddenRecord | None:
    """Give what was tried; None where nothing was."""
    stage = run.store.stage("hidden")
    return stage.read(HiddenRecord) if stage else None


def hidden_sizes(run: Run) -> list[int]:
    """Give the sizes to try, from the dense one to half of it, as long as the model has room above the budget."""
    dense, levels = run.inputs.dense, run.config.space.hidden_levels
    whole = dense.shape.hidden_size
    multiple = hardware_multiple(whole, GPU_MULTIPLE)
    wanted = Budget.from_config(dense.shape, run.config.budget)
    parameters = [limit.ceiling for limit in wanted.limits if limit.cost.name == "decoder_parameters"]
    least = ROOM * max(parameters, default=0)
    enough = [
        size
        for size in range(multiple, whole, multiple)
        if 2 * size >= whole and hidden_parameters(dense, size) >= least
    ]
    spread = torch.linspace(0, len(enough) - 1, min(levels - 1, len(enough))).round().long().tolist() if enough else []
    return [whole, *(enough[place] for place in reversed(spread))]


def narrowed_run(run: Run, order: torch.Tensor, size: int) -> Run:
    """Give the run of which the model has so many hidden channels; space and budget are the new model's.

    Raises:
        BudgetError: Nothing of that size meets the budget.
    """
    inputs, config = run.inputs, run.config
    if size == inputs.dense.shape.hidden_size:
        return run
    channels = order[:size].sort().values.to(inputs.walk.device)
    streams = run.dense_streams(config.search.reconstructed_tokens)
    dense = narrow_hidden(inputs.dense, inputs.walk, streams, channels, config.pruning.ridge)
    budget = Budget.from_config(inputs.dense.shape, config.budget)
    space, budget = searchable(space_of(config, dense, COSTS), budget, config.seed)
    narrowed = Narrowed(inputs.dense, inputs.walk, channels)
    walk = DecoderWalk(dense.model, dense.family)
    return replace(run, inputs=replace(inputs, dense=dense, walk=walk, space=space, budget=budget, narrowed=narrowed))


def _try(run: Run, order: torch.Tensor, size: int) -> None:
    """Measure what a size promises; one whose space holds nothing at the budget promises nothing."""
    with stage_clock(f"hidden {size}", silent) as clock:
        try:
            kl = _least_kl(run, narrowed_run(run, order, size))
        except BudgetError:
            kl = None
    run.store.end_stage(f"hidden {size}", clock.seconds, Tried(kl=kl).model_dump(mode="json"))


def _least_kl(run: Run, narrowed: Run) -> float:
    config, inputs = run.config, narrowed.inputs
    windows = inputs.sets[Role.CALIBRATION].tokens
    few = windows[: max(1, config.search.reconstructed_tokens // windows.shape[1])]
    seed = derive_seed(config.seed, "calibrate")
    tokens = TokenSet(Role.CALIBRATION, few)
    statistics = calibrate(inputs.dense, tokens, config.evaluation.batch_tokens, seed)
    bank = build_run_bank(narrowed, statistics, inputs.space)
    reference = run.selection_reference
    stitched = narrowed.stitched(bank, reference)
    task = search_task(narrowed, inputs.space, bank, lambda _batch: [])
    candidates = [inputs.space.levels(each.architecture) for each in initial_candidates(task, TRIED)]
    scores = stitched.scores([inputs.space.architecture(levels) for levels in candidates])
    kls = {levels: float(each.kl.mean()) for levels, each in zip(candidates, scores, strict=True)}
    best = sorted(kls, key=lambda levels: (kls[levels], levels))
    if not run.reconstructs_candidates:
        return kls[best[0]]
    streams = narrowed.dense_streams(config.search.reconstructed_tokens)

    def after_reconstruction(levels: Levels) -> float:
        model = reconstructed(narrowed, bank, inputs.space.architecture(levels), streams)
        return float(score_model(model, inputs.dense.family, inputs.walk, reference).kl.mean())

    return min(after_reconstruction(levels) for levels in best[:RECONSTRUCTED])


def _record(run: Run, sizes: list[int]) -> HiddenRecord:
    kls: dict[int, float] = {}
    for size in sizes:
        stage = run.store.stage(f"hidden {size}")
        kl = stage.read(Tried).kl if stage is not None else None
        if kl is not None:
            kls[size] = kl
    return HiddenRecord(chosen=min(kls, key=lambda size: (kls[size], -size)), dense=sizes[0], kl=kls)
