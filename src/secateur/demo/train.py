"""Trains the demo decoder: `python -m secateur.demo.train --out DIR`; `--evaluate DIR` prints the losses of one.

Every window is new text, so the training loss is an honest one too. Measured on one core of a server CPU with
AVX512-BF16, in tokens per second: 5,000 in float32, 4,900 in bfloat16 autocast, no more with `torch.compile`. Attention
and small operations take half of the time and gain nothing, so training is plain float32. (A window of 255 inputs
instead of 256 costs a tenth of the speed.)
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from secateur.demo.checkpoint import Progress, load_checkpoint, save_checkpoint
from secateur.demo.decoder import MAX_LENGTH, VOCAB_SIZE, export_decoder, new_decoder
from secateur.demo.heldout import HELDOUT_SEED_OFFSET, as_table, heldout_loss
from secateur.demo.text import generate_documents
from secateur.demo.tokenizer import train_tokenizer
from secateur.demo.windows import WindowStream

LOG_NAME = "training_log.jsonl"
TOKENIZER_DOCUMENTS = 20_000
WINDOW_LENGTHS = (64, 128, 256)


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that decides how the decoder is trained.

    The learning rate follows the share of `minutes` that is spent: up linearly, constant, down linearly to zero. So
    does the length of windows: each of `window_lengths` has an equal share of the first half, and the last of them the
    whole second half, because short windows are faster and teach the first things as well.

    What failed: a learning rate of 0.006 with 1,024 tokens a step. Its updates are mostly noise, and after 1.5 million
    tokens the decoder still did not repeat a word from the context. With 0.003 and 2,048 tokens it began to after 1
    million (held-out loss there 1.10 instead of 1.16 nats per token).
    """

    minutes: float
    seed: int
    learning_rate: float
    tokens_per_step: int
    window_lengths: tuple[int, ...] = WINDOW_LENGTHS
    warmup_ratio: float = 0.01
    cooldown_ratio: float = 0.8
    weight_decay: float = 0.1
    gradient_norm_limit: float = 1.0
    log_every_steps: int = 250
    heldout_documents: int = 200

    def __post_init__(self) -> None:
        """Refuses values that training could not follow."""
        for name in ("minutes", "learning_rate", "tokens_per_step"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name} > 0` must hold, but got {name}={getattr(self, name)}")
        for length in self.window_lengths:
            if self.tokens_per_step % length:
                raise ValueError(
                    "`tokens_per_step` must be a multiple of every window length, "
                    f"but got tokens_per_step={self.tokens_per_step} and window_lengths={self.window_lengths}"
                )
        if not 0 <= self.seed < HELDOUT_SEED_OFFSET:
            raise ValueError(f"`0 <= seed < {HELDOUT_SEED_OFFSET}` must hold, but got seed={self.seed}")

    def learning_rate_at(self, spent_ratio: float) -> float:
        """Learning rate after a share of the time, in [0, 1]."""
        rising, falling = spent_ratio / self.warmup_ratio, (1 - spent_ratio) / self.cooldown_ratio
        return self.learning_rate * max(0.0, min(1.0, rising, falling))

    def window_length_at(self, spent_ratio: float) -> int:
        """Tokens per window after a share of the time, in [0, 1]."""
        position = int(spent_ratio * 2 * len(self.window_lengths))
        return self.window_lengths[min(position, len(self.window_lengths) - 1)]


def train(
    plan: TrainingPlan, out: Path, report: Callable[[str], None], clock: Callable[[], float] = time.monotonic
) -> None:
    """Train for `plan.minutes` by `clock` (seconds) and leave the decoder with its log in `out/decoder`.

    A checkpoint in `out` is continued; the decoder folder is rewritten at every checkpoint, so that it is usable
    before the end.
    """
    folder = out / "decoder"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(VOCAB_SIZE, TOKENIZER_DOCUMENTS, plan.seed, MAX_LENGTH)
    model = new_decoder(tokenizer, plan.seed)
    optimizers = _optimizers(model, plan)
    stream = WindowStream(tokenizer, plan.seed)
    step, tokens, elapsed_s = 0, 0, 0.0
    checkpoint = out / "checkpoint.safetensors"
    if checkpoint.exists():
        progress = load_checkpoint(checkpoint, model, optimizers)
        step, tokens, elapsed_s = progress.step, progress.tokens, progress.elapsed_s
        stream.next_document, stream.leftover = progress.next_document, progress.leftover
        report(f"continuing after step {step}")

    model.train()
    recent_losses = []
    last_time = clock()
    while elapsed_s < 60 * plan.minutes:
        spent_ratio = elapsed_s / (60 * plan.minutes)
        learning_rate, window_length = plan.learning_rate_at(spent_ratio), plan.window_length_at(spent_ratio)
        windows = stream.next_windows(plan.tokens_per_step // window_length, window_length)
        recent_losses.append(_take_step(model, optimizers, windows, learning_rate, plan.gradient_norm_limit))
        step, tokens = step + 1, tokens + windows[:, 1:].numel()
        now = clock()
        elapsed_s, last_time = elapsed_s + now - last_time, now
        if step % plan.log_every_steps == 0 or elapsed_s >= 60 * plan.minutes:
            _log(folder, model, tokenizer, plan, report, step, tokens, elapsed_s, learning_rate, recent_losses)
            recent_losses = []
            progress = Progress(step, tokens, elapsed_s, stream.next_document, stream.leftover)
            save_checkpoint(checkpoint, model, optimizers, progress)
            export_decoder(model, tokenizer, folder)
            # Logging and saving are not training: they take nothing from the time budget.
            last_time = clock()


def _optimizers(model: LlamaForCausalLM, plan: TrainingPlan) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices of the layers, AdamW for embeddings and normalization weights, with one learning rate.

    Muon scales its updates to the size that AdamW's have (`match_rms_adamw`), so that one rate fits both. It takes less
    than a tenth of a step; after 1 million tokens the held-out loss was 1.15 nats per token, with AdamW alone 1.17
    (one run each, before today's defaults were found, with rates of 0.006 and 0.004).
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and "embed_tokens" not in name else others).append(parameter)
    return (
        torch.optim.Muon(
            matrices, lr=plan.learning_rate, weight_decay=plan.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    )


def _take_step(
    model: LlamaForCausalLM,
    optimizers: Sequence[torch.optim.Optimizer],
    windows: Int[Tensor, "num_windows tokens"],
    learning_rate: float,
    gradient_norm_limit: float,
) -> float:
    """One update; returns the training loss in nats per token before it."""
    inputs, labels = windows[:, :-1].contiguous(), windows[:, 1:].flatten()
    logits = model(input_ids=inputs, use_cache=False).logits
    loss = functional.cross_entropy(logits.flatten(0, 1), labels)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), gradient_norm_limit)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def _log(
    folder: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    plan: TrainingPlan,
    report: Callable[[str], None],
    step: int,
    tokens: int,
    elapsed_s: float,
    learning_rate: float,
    recent_losses: list[float],
) -> None:
    """Append one line to the log: training loss since the last line, held-out loss and its entropy bound, in nats."""
    documents = generate_documents(plan.heldout_documents, plan.seed + HELDOUT_SEED_OFFSET)
    sums = heldout_loss(model, tokenizer, documents)
    entry = {
        "step": step,
        "tokens": tokens,
        "elapsed_s": round(elapsed_s, 1),
        "learning_rate": round(learning_rate, 6),
        "training_loss": round(math.fsum(recent_losses) / len(recent_losses), 4),
        "heldout_loss": round(sums["all"].loss, 4),
        "heldout_entropy_bound": round(sums["all"].entropy_bound, 4),
        "heldout_difference_per_domain": {
            name: round(row.loss - row.entropy_bound, 4) for name, row in sums.items() if name != "all"
        },
    }
    line = json.dumps(entry)
    with (folder / LOG_NAME).open("a") as log:
        log.write(line + "\n")
    report(line)


def evaluate(folder: Path, num_documents: int, seed: int) -> str:
    """The table of losses of a decoder folder, on documents of the stream of `seed` plus the held-out offset.

    Documents after the first thousand are taken: the first ones are those that training logged.
    """
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    documents = generate_documents(num_documents, seed + HELDOUT_SEED_OFFSET, first_index=1000)
    return as_table(heldout_loss(model, tokenizer, documents), len(tokenizer))


def main() -> None:
    """The command line of this file."""
    parser = argparse.ArgumentParser(prog="python -m secateur.demo.train", description="Train the demo decoder.")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--out", type=Path, help="train, and leave checkpoint and decoder in this folder")
    action.add_argument("--evaluate", type=Path, metavar="DIR", help="print the losses of the decoder in this folder")
    parser.add_argument("--minutes", type=float, default=60.0, help="training time (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of text and initial weights (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="highest (default: %(default)s)")
    parser.add_argument("--tokens-per-step", type=int, default=2048, help="(default: %(default)s)")
    parser.add_argument("--documents", type=int, default=2000, help="to evaluate on (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.evaluate is not None:
        print(evaluate(options.evaluate, options.documents, options.seed))
        return
    plan = TrainingPlan(
        minutes=options.minutes,
        seed=options.seed,
        learning_rate=options.learning_rate,
        tokens_per_step=options.tokens_per_step,
    )
    train(plan, options.out, lambda line: print(line, file=sys.stderr, flush=True))


if __name__ == "__main__":
    main()
