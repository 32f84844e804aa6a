"""What benchmarks/measuring.py measures on, and the naive way to measure it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from secateur.budget import BudgetConfig
from secateur.config import build_config, resolve
from secateur.data import Role, TokenSet
from secateur.demo import decoder_path
from secateur.evaluation.divergence import DenseReference, WindowScores
from secateur.evaluation.stitched import Memory, StitchedModel
from secateur.inputs import load_inputs
from secateur.model.families import find_family
from secateur.model.loading import DenseModel
from secateur.model.shape import read_shape
from secateur.model.walk import DecoderWalk
from secateur.pruning.bank import WeightBank, build_bank
from secateur.pruning.calibration import calibrate
from secateur.pruning.surgery import prune
from secateur.space.architecture import Architecture
from secateur.space.cost import Budget
from secateur.space.repair import mutate
from secateur.space.sampling import sample_architectures
from secateur.space.search_space import SearchSpace, define_space

KEEP, SEED = 0.8, 0
LARGE = {
    "hidden_size": 1_024,
    "intermediate_size": 2_816,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "vocab_size": 32_000,
    "max_position_embeddings": 512,
}


@dataclass(frozen=True)
class Subject:
    """A model, its bank, and tokens to measure on.

    Attributes:
        step_windows: Per batch, where halving goes batch by batch.
        batch_windows: Per batch otherwise, and of the naive way.
    """

    name: str
    dense: DenseModel
    walk: DecoderWalk
    bank: WeightBank
    space: SearchSpace
    budget: Budget
    tokens: TokenSet
    step_windows: int
    batch_windows: int = 16

    @cached_property
    def reference(self) -> DenseReference:
        return DenseReference(self.walk, self.tokens, self.batch_windows)

    @cached_property
    def in_steps(self) -> DenseReference:
        return DenseReference(self.walk, self.tokens, self.step_windows)

    def stitched(
        self, candidates: int = 64, dtype: torch.dtype | None = None, reference: DenseReference | None = None
    ) -> StitchedModel[WindowScores]:
        memory = Memory(candidates=candidates)
        return StitchedModel(self.walk, self.bank, reference or self.reference, memory, dtype)

    def random(self, count: int) -> list[Architecture]:
        return sample_architectures(self.space, self.budget, count, SEED)

    def offspring(self, parent: Architecture, count: int) -> list[Architecture]:
        """Give children that differ in two modules, and in what meeting the budget then takes."""
        rng, found = np.random.default_rng(SEED), {}
        levels = self.space.levels(parent)
        for _ in range(100 * count):
            child = mutate(self.space, levels, self.budget, 1, rng)
            if child is not None and child != levels and len(found) < count:
                found.setdefault(child)
        return [self.space.architecture(each) for each in found]

    @cached_property
    def dense_log_probabilities(self) -> list[Tensor]:
        with torch.no_grad():
            return [self._logits(self.dense.model, batch) for batch in self.reference.batches]

    @torch.no_grad()
    def naive(self, architecture: Architecture) -> float:
        """Make the candidate, run transformers' forward, keep its logits, compare: KL in nats per token."""
        pruned = prune(self.dense, self.bank, architecture)
        kl = []
        for batch, log_p in zip(self.reference.batches, self.dense_log_probabilities, strict=True):
            log_q = self._logits(pruned, batch)
            kl.append((log_p.exp() * (log_p - log_q)).sum(-1).mean(1))
        return float(torch.cat(kl).mean())

    @staticmethod
    def _logits(model: Any, batch: Tensor) -> Tensor:
        return model(input_ids=batch, use_cache=False).logits[:, :-1].float().log_softmax(-1)


def demo() -> Subject:
    """Give the embedded model with its own text and the bank of a run."""
    inputs = load_inputs(resolve(build_config([{"model": {"name": "demo"}, "budget": {"keep": KEEP}}])))
    statistics = calibrate(inputs.dense, inputs.sets[Role.CALIBRATION], 4_096, SEED)
    bank = build_bank(inputs.dense, statistics, inputs.space.options)
    tokens = inputs.sets[Role.SELECTION]
    return Subject("demo", inputs.dense, inputs.walk, bank, inputs.space, inputs.budget, tokens, 4)


def random_llama(num_layers: int, **sizes: int) -> DenseModel:
    torch.manual_seed(SEED)
    config = LlamaConfig(num_hidden_layers=num_layers, tie_word_embeddings=True, **(LARGE | sizes))
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    family = find_family("llama")
    tokenizer = AutoTokenizer.from_pretrained(decoder_path())
    return DenseModel("random", model, tokenizer, family, read_shape(model, family), "float32")


def random_tokens(role: Role, dense: DenseModel, windows: int, length: int) -> TokenSet:
    generator = torch.Generator().manual_seed(SEED)
    return TokenSet(role, torch.randint(0, dense.model.config.vocab_size, (windows, length), generator=generator))


def large(num_layers: int = 24, windows: int = 16, length: int = 128) -> Subject:
    """Give a random Llama on random tokens. What its bank is ordered by changes no time: slices, plainly cut."""
    dense = random_llama(num_layers)
    walk = DecoderWalk(dense.model, dense.family)
    statistics = calibrate(dense, random_tokens(Role.CALIBRATION, dense, 4, length), 512, SEED)
    space = define_space(dense.shape, 17, 9)
    bank = build_bank(dense, statistics, space.options, "wanda", "none")
    budget = Budget.from_config(dense.shape, BudgetConfig(keep=KEEP))
    tokens = random_tokens(Role.SELECTION, dense, windows, length)
    return Subject(f"random Llama, {num_layers} x 1,024", dense, walk, bank, space, budget, tokens, 2)
