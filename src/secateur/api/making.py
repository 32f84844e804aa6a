"""Stages by themselves, third part: an architecture is cut out, reconstructed, evaluated and exported."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from secateur.api.foundations import EVALUATION, PRUNING, walk_of
from secateur.data import Role, TokenSet
from secateur.errors import ExportError, RunFolderError
from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.perplexity import Perplexity, perplexity, window_losses
from secateur.evaluation.stitched import score_model
from secateur.export.checkpoint import express, round_weights, save_checkpoint
from secateur.export.form import ExportedForm
from secateur.export.verify import MAX_LOGIT_DIFFERENCE, load_in_fresh_process
from secateur.model.loading import DenseModel
from secateur.pruning.bank import WeightBank
from secateur.pruning.sequence import DenseStreams, reconstruct_in_sequence
from secateur.pruning.surgery import prune as cut_out
from secateur.runs.folder import written_whole
from secateur.schema import derive_seed
from secateur.space.architecture import Architecture


def cut(dense: DenseModel, bank: WeightBank, architecture: Architecture) -> PreTrainedModel:
    """Cut an architecture out: a smaller model with the logits of the slices that were measured.

    It can be run and reconstructed. To generate with it, or to hand it on, write it with `export_model` and load that.
    """
    return cut_out(dense, bank, architecture)


def reconstruct(
    dense: DenseModel,
    pruned: PreTrainedModel,
    architecture: Architecture,
    calibration: TokenSet,
    *,
    ridge: float = PRUNING.sequential_ridge,
    batch_tokens: int = EVALUATION.batch_tokens,
    max_tokens: int | None = None,
) -> PreTrainedModel:
    """Solve the projections of a cut model again, one after another: later modules make up for earlier ones.

    Args:
        pruned: As `cut` gave it for the same architecture.
        ridge: Pull towards the weights as they are.
        max_tokens: Of the calibration set; all if not given.

    Returns:
        The same model, which was changed in place.
    """
    walk = walk_of(dense)
    tokens = calibration.num_tokens if max_tokens is None else max_tokens
    streams = DenseStreams(walk, calibration, batch_tokens, tokens, EVALUATION.cache_bytes)
    reconstruct_in_sequence(dense, walk, pruned, architecture, streams, ridge)
    return pruned


@dataclass(frozen=True)
class Evaluation:
    """Quality on an evaluation set; `kl` is KL(dense || model) in nats per token, None without a dense model."""

    perplexity: Perplexity
    kl: float | None


def evaluate(
    model: PreTrainedModel,
    evaluation: TokenSet,
    *,
    dense: DenseModel | None = None,
    batch_tokens: int = EVALUATION.batch_tokens,
    confidence: float = EVALUATION.confidence,
    seed: int = 0,
) -> Evaluation:
    """Give the perplexity of any causal model, with a bootstrap interval, and KL to the dense model.

    Args:
        model: Any of transformers; with `dense` its own model, or one that `cut` has made of it.
        evaluation: The evaluation set; another role is refused.
        batch_tokens: Tokens per pass.
        confidence: Of the interval.

    Raises:
        ValueError: The set has another role.
    """
    length = evaluation.sequence_length
    kl = None
    if dense is None:
        losses = window_losses(model, evaluation, batch_tokens)
    else:
        walk = walk_of(dense)
        reference = DenseReference(walk, evaluation.expect(Role.EVALUATION), max(1, batch_tokens // length))
        scores = score_model(model, dense.family, walk, reference)
        losses, kl = scores.loss, float(scores.kl.mean())
    bootstrap = derive_seed(seed, "bootstrap")
    return Evaluation(perplexity(losses, f"packed-{length}", length, bootstrap, confidence), kl)


@torch.no_grad()
def export_model(
    dense: DenseModel,
    pruned: PreTrainedModel,
    architecture: Architecture,
    folder: str | Path,
    *,
    dtype: str = "auto",
    shard_size: str = "5GB",
    probe: TokenSet | None = None,
) -> ExportedForm:
    """Write a cut model as a Hugging Face folder that other software loads.

    Args:
        pruned: As `cut` and `reconstruct` leave it; its weights are rounded in place to what the folder holds.
        dtype: Of the weights on disk; `auto` as the dense model is stored.
        shard_size: Of a file of weights, at most.
        probe: Tokens on which the folder is held to the model's logits, in a process that never imported Secateur;
            without them it is written and not checked.

    Returns:
        How it is expressed: `loading_lines(folder)` load it, `remote_code` says whether they run a file of the folder.

    Raises:
        RunFolderError: The folder is in use.
        ExportError: It does not load there, or gives other logits.
    """
    if Path(folder).exists():
        raise RunFolderError(f"{folder} is there already; choose another folder to export to")
    stored = dense.stored_dtype if dtype == "auto" else dtype
    round_weights(pruned, stored)
    form = express(dense, architecture, stored)
    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(target) as partial:
        save_checkpoint(dense, pruned, form, stored, partial, shard_size)
        if probe is not None:
            tokens = probe.tokens[:2]
            whole = pruned if pruned.dtype is torch.float32 else copy.deepcopy(pruned).float()
            logits = whole(input_ids=tokens.to(whole.device), use_cache=False).logits.cpu()
            seen = load_in_fresh_process(partial, dense.tokenizer, tokens, logits, remote_code=form.remote_code)
            if not seen.max_logit_difference <= MAX_LOGIT_DIFFERENCE:
                raise ExportError(f"{folder} gives logits that differ by {seen.max_logit_difference:.2e} once loaded")
    return form
