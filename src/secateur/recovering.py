"""THE RECOVERY by itself: a pruned model that lies in a folder, trained, evaluated and written, whoever pruned it.

load pruned and dense -> text -> evaluate -> recover -> evaluate -> write -> load in a fresh process
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
import yaml
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.config import ModelConfig, RunConfig
from secateur.data import Role, TokenSet, assign_documents, assign_group_documents, build_group_sets, build_token_sets
from secateur.demo import decoder_path
from secateur.errors import ConfigError
from secateur.evaluation.paired import PairedComparison, compare_paired
from secateur.evaluation.perplexity import Perplexity, perplexity, window_losses
from secateur.export.checkpoint import round_weights
from secateur.export.recovered import save_recovered
from secateur.model.loading import load_causal_model, weights_fingerprint
from secateur.recovery.assembly import DenseTeacher, Recovery, Texts
from secateur.recovery.ranks import Ranks, help_train, joined, refuse_ranks, started_ranks
from secateur.recovery.recover import recover
from secateur.recovery_folder import (
    RecoveredRow,
    RecoveryFolder,
    RecoveryOutcome,
    RecoveryRequest,
    check_recovery_folder,
    remember,
)
from secateur.recovery_inputs import load_recovery_set, refuse_recovery, selection_by_domain
from secateur.report.recovery import recovered_card
from secateur.runs.folder import RunFolder, remove, written_whole
from secateur.runs.progress import LOSS, Listener, silent, stage_clock
from secateur.runs.records import read_record
from secateur.schema import canonical_json, derive_seed
from secateur.stages.recover import recovered_note


@dataclass(frozen=True)
class Loaded:
    """The models and texts of a recovery."""

    pruned: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stored: str
    dense: PreTrainedModel | None
    sets: dict[Role, TokenSet]
    texts: Texts
    fingerprints: dict[str, str]


def recover_folder(request: RecoveryRequest, root: Path, listener: Listener = silent) -> RecoveryOutcome:
    """Recover a pruned model, or go on with a recovery that was interrupted in the same folder.

    Args:
        root: Made if it is missing.

    Raises:
        InputError: The model, the text or the folder cannot be used, or the recipe cannot be followed.
        ExportError: The written folder does not behave like the model that was evaluated.
    """
    folder = RecoveryFolder(root)
    check_recovery_folder(folder, request)
    if folder.outcome.is_file():
        return read_record(folder.outcome, RecoveryOutcome)
    with stage_clock("load", listener) as clock:
        loaded = load(request)
        clock.note = (
            f"{loaded.pruned.num_parameters():,} parameters, {loaded.texts.recovery.num_tokens:,} tokens to train on"
        )
    root.mkdir(parents=True, exist_ok=True)
    with RunFolder(root).held():
        if not folder.request.is_file():
            with written_whole(folder.request) as path:
                path.write_text(yaml.safe_dump(request.model_dump(mode="json"), sort_keys=False))
        remember(folder, loaded.fingerprints)
        return recover_loaded(request, folder, loaded, listener)


def recover_loaded(
    request: RecoveryRequest, folder: RecoveryFolder, loaded: Loaded, listener: Listener
) -> RecoveryOutcome:
    """Everything after loading."""
    config, pruned, dense = request.config, loaded.pruned, loaded.dense
    losses: dict[str, Float[Tensor, " windows"]] = {}
    sizes = {"pruned": pruned.num_parameters()} | ({"dense": dense.num_parameters()} if dense is not None else {})

    def evaluate(name: str, model: PreTrainedModel, advance: Callable[[], None]) -> None:
        evaluation = loaded.sets[Role.EVALUATION].expect(Role.EVALUATION)
        losses[name] = window_losses(model.eval(), evaluation, config.evaluation.batch_tokens, advance)

    with stage_clock("evaluate", listener) as clock:
        if dense is not None:
            evaluate("dense", dense, clock.advance)
        evaluate("pruned", pruned, clock.advance)
    ranks = started_ranks()
    recovery = recovery_of(request, loaded, ranks, folder.work)
    steps = recovery.recipe.all_steps(len(recovery.texts.recovery))
    with stage_clock("recover", listener, steps, LOSS) as clock:
        with joined(ranks, pruned.device, canonical_json(loaded.fingerprints)):
            recovered, record = recover(pruned, recovery, clock.advance)
        round_weights(recovered, loaded.stored)
        clock.note = recovered_note(record)
    with stage_clock("evaluate recovered", listener) as clock:
        evaluate("recovered", recovered, clock.advance)
    rows = tuple(
        RecoveredRow(
            name=name, num_parameters=sizes.get(name, sizes["pruned"]), perplexity=summarised(config, losses[name])
        )
        for name in ("dense", "pruned", "recovered")
        if name in losses
    )
    card = recovered_card(title(config), loaded.stored, rows, record)
    with stage_clock("export", listener) as clock, written_whole(folder.exported) as target:
        probe = loaded.sets[Role.SELECTION].tokens[:2]
        difference = save_recovered(recovered, loaded.tokenizer, config.model.name, loaded.stored, target, card, probe)
        clock.note = f"loads in a fresh process, logits within {difference:.0e}"
    outcome = RecoveryOutcome(
        secateur=version("secateur"),
        model=title(config),
        dense=None if request.dense is None else Path(request.dense.name).name,
        seed=config.seed,
        fingerprints=loaded.fingerprints,
        rows=rows,
        comparison=compared(config, losses["recovered"] - losses["pruned"]),
        recovery=record,
        folder=folder.exported.name,
        max_logit_difference=difference,
    )
    with written_whole(folder.outcome) as path:
        path.write_text(outcome.model_dump_json(indent=2) + "\n")
    # What was trained is in the export now.
    remove(folder.work)
    return outcome


def help_recover(request: RecoveryRequest, root: Path) -> None:
    """Take windows of every step of the recovery that another process leads in a folder.

    Raises:
        InputError: The model or the text cannot be used, or are not those of the leader.
    """
    if RecoveryFolder(root).outcome.is_file():
        return
    ranks, loaded = started_ranks(), load(request)
    recovery = recovery_of(request, loaded, ranks, None)
    pruned = loaded.pruned
    with joined(ranks, pruned.device, canonical_json(loaded.fingerprints)):
        trainee, objective = recovery.trainee(pruned), recovery.objective()
        help_train(ranks, trainee, objective, loaded.texts.recovery, recovery.plan(pruned).micro_windows)


def recovery_of(request: RecoveryRequest, loaded: Loaded, ranks: Ranks, folder: Path | None) -> Recovery:
    """Put together what is trained, the same in every process that takes part."""
    config, dense = request.config, loaded.dense
    return Recovery(
        recipe=config.recovery,
        texts=loaded.texts,
        seed=derive_seed(config.seed, "recovery"),
        batch_tokens=config.evaluation.batch_tokens,
        teacher=None if dense is None else DenseTeacher(dense, weights_fingerprint(dense)),
        folder=folder,
        ranks=ranks,
    )


def load(request: RecoveryRequest) -> Loaded:
    """Load text and models, the cheap first.

    Raises:
        InputError: One of them cannot be used.
    """
    config, data = request.config, request.config.data
    refuse_recovery(config, dense=request.dense is not None)
    if started_ranks().count > 1:
        refuse_ranks(config.recovery)
    if config.recovery.method == "none":
        raise ConfigError("recovery.method=none trains nothing; expected lora, qlora or full")
    if config.recovery.learns_from_dense and request.dense is None:
        raise ConfigError(
            "the recipe learns from the dense model, and none was given; name it with --dense MODEL, or set "
            "recovery.distill=0"
        )
    own = {
        Role.CALIBRATION: list(data.calibration),
        Role.SELECTION: list(data.selection),
        Role.EVALUATION: list(data.evaluation),
    }
    documents = assign_documents(list(data.sources), own, data.text_field)
    groups = assign_group_documents(data.groups, documents, data.text_field)
    pruned, tokenizer, stored = loaded_model(config.model)
    dense = None
    if request.dense is not None:
        dense = loaded_model(request.dense)[0].requires_grad_(False)
        if dense.config.vocab_size != pruned.config.vocab_size:
            raise ConfigError(
                f"--dense has a vocabulary of {dense.config.vocab_size} tokens, the pruned model one of "
                f"{pruned.config.vocab_size}; give the model that it was pruned from"
            )
    wanted = {
        Role.CALIBRATION: data.calibration_tokens,
        Role.SELECTION: data.selection_tokens,
        Role.EVALUATION: data.evaluation_tokens,
    }
    judged = {role: documents[role] for role in (Role.SELECTION, Role.EVALUATION)}
    sets = build_token_sets(judged, tokenizer, data.sequence_length, wanted)
    recovery_set = load_recovery_set(config, documents, groups, tokenizer)
    fingerprints = {"model": weights_fingerprint(pruned), "recovery": recovery_set.fingerprint}
    fingerprints |= {str(role): each.fingerprint for role, each in sets.items()}
    selection = sets[Role.SELECTION].expect(Role.SELECTION)
    by_domain: dict[str, Int[Tensor, "_ length"]] = {}
    if config.recovery.robust == "groups":
        sizes = {Role.SELECTION: data.group_tokens}
        own_selection = {name: {Role.SELECTION: each[Role.SELECTION]} for name, each in groups.items()}
        group_sets = build_group_sets(own_selection, tokenizer, data.sequence_length, sizes)
        by_domain = selection_by_domain(recovery_set, selection, group_sets)
    texts = Texts(recovery_set, selection.tokens, by_domain)
    return Loaded(pruned.requires_grad_(False), tokenizer, stored, dense, sets, texts, fingerprints)


def loaded_model(given: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    name = str(decoder_path()) if given.name == "demo" else given.name
    return load_causal_model(name, given.device, given.dtype, given.revision, given.trust_remote_code)


def title(config: RunConfig) -> str:
    """Name the pruned model: a run by its folder."""
    path = Path(config.model.name)
    return path.parent.name if path.name == "exported" else path.name


def summarised(config: RunConfig, losses: Float[Tensor, " windows"]) -> Perplexity:
    length = config.data.sequence_length
    seed = derive_seed(config.seed, "bootstrap")
    return perplexity(losses, f"packed-{length}", length, seed, config.evaluation.confidence)


def compared(config: RunConfig, differences: Float[Tensor, " windows"]) -> PairedComparison:
    predictions = config.data.sequence_length - 1
    weights = torch.full((len(differences),), predictions)
    protocol = f"packed-{config.data.sequence_length}"
    confidence = config.evaluation.confidence
    return compare_paired("recovered", "pruned", protocol, differences * predictions, weights, config.seed, confidence)
