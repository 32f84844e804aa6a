"""NVIDIA Model Optimizer's FastNAS decides the widths, in place of Secateur's search, at the same parameter count.

    pip install 'secateur[compare]'
    pip install --no-deps torchprofile==0.0.4
    python benchmarks/fastnas.py MODEL --data TEXT [--keep 0.8 --keep 0.5 --seed 0 --seed 1 --seed 2 --name stories260k]

FastNAS gets the budget, the widths that Secateur's space offers (except 0: it cannot remove a block) and, as score,
minus the KL on the selection set. Two searches per budget:

    ffn          as modelopt finds a transformers Llama: it can trace the MLPs only, attention stays dense
    ffn+heads    KV-head groups as well, by the registration of attention below, which modelopt does not have

and two perplexities for the widths found. `fastnas` is the model that modelopt exports, groups ranked by the norm of
their output columns and nothing refitted. `reconstructed` takes only the widths; groups and weights come from our bank
and sequential reconstruction, so that what is left is the difference between the searches (but a run of Secateur picks
the best of several finalists after reconstruction, and here there is only the one). FastNAS is deterministic: seeds
touch `reconstructed` alone, by the sampled labels of calibration.

torchprofile, by which modelopt counts FLOPs whatever the budget is in, asks for a torchvision that is not needed;
beside a CPU build of torch the one from PyPI does not load, and transformers then does not either.

NVIDIA recommends FastNAS for computer vision and fine-tunes afterwards; nothing here is fine-tuned.
"""

import argparse
import copy
import json
import platform
import statistics
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.cli.terminal import quiet_libraries
from secateur.config import RunConfig, build_config, resolve
from secateur.data import Role
from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.perplexity import window_losses
from secateur.evaluation.stitched import score_model
from secateur.inputs import Inputs, load_inputs
from secateur.model.loading import DenseModel
from secateur.model.shape import BlockKind, decoder_layers, group_tensors
from secateur.model.walk import DecoderWalk
from secateur.pruning.bank import build_bank
from secateur.pruning.calibration import calibrate
from secateur.pruning.gains import match_gains, scaled_by
from secateur.pruning.sequence import DenseStreams, reconstruct_in_sequence
from secateur.pruning.surgery import prune
from secateur.space.architecture import Architecture

RESULTS = Path(__file__).parent / "results"
BATCH_TOKENS = 4_096
CACHE_BYTES = 1 << 30
BATCH_WINDOWS = 16


class Tokens2Logits(nn.Module):
    """A decoder as modelopt expects a model: one tensor in, one out."""

    def __init__(self, decoder: PreTrainedModel) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, tokens: Tensor) -> Tensor:
        return self.decoder(input_ids=tokens, use_cache=False).logits


@dataclass(frozen=True)
class Found:
    """What FastNAS found: its widths in module order, the model it exports, and what that took."""

    architecture: Architecture
    model: PreTrainedModel
    num_scores: int
    seconds: float


@contextmanager
def attention_registered(dense: DenseModel) -> Iterator[str]:
    """Tell modelopt of one hyperparameter more, how many KV-head groups a layer keeps, and give its rule's name.

    It bears the name `num_attention_heads`, one of the three that FastNAS searches over. Groups are ranked as modelopt
    ranks FFN channels, by the norm of their columns of the output projection.
    """
    from modelopt.torch.nas.registry import DMRegistry  # noqa: PLC0415
    from modelopt.torch.nas.traced_hp import TracedHp  # noqa: PLC0415
    from modelopt.torch.opt.dynamic import DynamicModule  # noqa: PLC0415
    from modelopt.torch.trace import Symbol, SymInfo, SymMap  # noqa: PLC0415

    layer = decoder_layers(dense.model, dense.family)[0]
    names = group_tensors(layer, dense.family, BlockKind.ATTENTION)
    num_groups = dense.shape.num_kv_heads

    class DynamicProjection(DynamicModule, nn.Linear):
        """A projection cut along one axis to the groups that are active."""

        def _setup(self, *, groups: TracedHp, axis: int) -> None:
            blocks = torch.arange(self.weight.shape[axis]).view(num_groups, -1)

            def cut(_module: nn.Module, tensor: Tensor, axis: int = axis) -> Tensor:
                return tensor.index_select(axis, blocks[groups.active_slice].flatten().to(tensor.device))

            self._register_dynamic_attribute("weight", cut)
            if axis == 0 and self.bias is not None:
                self._register_dynamic_attribute("bias", cut)
            self._register_dynamic_attribute(
                ("out_features", "in_features")[axis], lambda _module, size: size // num_groups * groups.active
            )

    class DynamicAttention(DynamicModule):
        def _setup(self) -> None:
            groups = TracedHp(list(range(1, num_groups + 1)))
            self._register_hparam("num_attention_heads", groups)
            for name, (_, axis) in names.items():
                DynamicProjection.convert(getattr(self, name), groups=groups, axis=axis)
            groups.register_importance(self._importance)

        def _importance(self) -> Tensor:
            weight = getattr(self, dense.family.attention.output).weight.detach()
            return torch.linalg.vector_norm(weight.view(len(weight), num_groups, -1), dim=(0, 2))

    attention = type(getattr(layer, dense.family.attention.module))
    SymMap.register(attention)(lambda _module: SymInfo(num_attention_heads=Symbol(is_searchable=True)))
    DMRegistry.register({attention: attention.__name__})(DynamicAttention)
    try:
        yield attention.__name__
    finally:
        DMRegistry.unregister(attention)
        SymMap.unregister(attention)


def search(inputs: Inputs, with_heads: bool) -> Found:
    """Let FastNAS search, and export what it found."""
    import modelopt.torch.prune as mtp  # noqa: PLC0415
    from modelopt.torch.utils import param_num_from_forward  # noqa: PLC0415

    dense = inputs.dense
    reference = DenseReference(inputs.walk, inputs.sets[Role.SELECTION], BATCH_WINDOWS)
    num_scores = 0

    def score(model: Tokens2Logits) -> float:
        nonlocal num_scores
        num_scores += 1
        return -float(score_model(model.decoder, dense.family, inputs.walk, reference).kl.mean())

    model = Tokens2Logits(copy.deepcopy(dense.model))
    dummy = torch.zeros(1, 8, dtype=torch.long, device=dense.model.device)
    # modelopt counts a tied head once more, so the budget goes in as what has to go.
    counted = param_num_from_forward(model, args=dummy, unit=1.0)
    ceiling = counted - (dense.shape.decoder_parameters - inputs.budget.ceiling)
    ratios = tuple(width / dense.shape.ffn_width for width in inputs.space.options[1] if width)
    rules: dict[str, Any] = {"nn.Linear": {"features_ratio": ratios, "feature_divisor": 1}}
    begun = time.perf_counter()
    with attention_registered(dense) if with_heads else nullcontext() as attention:
        mtp.prune(
            model,
            [("fastnas", rules | ({attention: {}} if attention else {}))],
            constraints={"params": ceiling},
            dummy_input=dummy,
            config={"score_func": score, "verbose": False},
        )
    size = dense.shape.group_size(BlockKind.ATTENTION)
    widths = []
    for layer in decoder_layers(model.decoder, dense.family):
        for kind, columns in ((BlockKind.ATTENTION, size), (BlockKind.MLP, 1)):
            output = next(p for p, axis in group_tensors(layer, dense.family, kind).values() if axis == 1)
            widths.append(output.weight.shape[1] // columns)
    seconds = time.perf_counter() - begun
    return Found(Architecture.from_widths(tuple(widths)), model.decoder, num_scores, seconds)


def perplexity_of(model: PreTrainedModel, inputs: Inputs) -> float:
    return float(window_losses(model, inputs.sets[Role.EVALUATION], BATCH_TOKENS).double().mean().exp())


def decoder_parameters(model: PreTrainedModel, dense: DenseModel) -> int:
    return sum(parameter.numel() for parameter in decoder_layers(model, dense.family).parameters())


def reconstructed(inputs: Inputs, architecture: Architecture, seed: int, ridge: float) -> float:
    """Give the perplexity of the same widths with groups and weights as in the result of a run."""
    dense, calibration = inputs.dense, inputs.sets[Role.CALIBRATION]
    gathered = calibrate(dense, calibration, BATCH_TOKENS, seed)
    bank = build_bank(dense, gathered, [(width,) for width in architecture.widths], seed=seed)
    model = prune(dense, bank, architecture)
    streams = DenseStreams(inputs.walk, calibration, BATCH_TOKENS, calibration.num_tokens, CACHE_BYTES)
    reconstruct_in_sequence(dense, inputs.walk, model, architecture, streams, ridge)
    walk = DecoderWalk(model, dense.family, source=inputs.walk)
    scaled_by(match_gains(inputs.walk, walk, architecture, streams.batches), dense.family)
    return perplexity_of(model, inputs)


def figures(inputs: Inputs, config: RunConfig, with_heads: bool, seeds: list[int]) -> dict[str, Any]:
    ridge = config.pruning.sequential_ridge
    found = search(inputs, with_heads)
    return {
        "keep": config.budget.keep,
        "searched": "ffn+heads" if with_heads else "ffn",
        "widths": list(found.architecture.widths),
        "decoder_parameters": {
            "dense": inputs.dense.shape.decoder_parameters,
            "budget": inputs.budget.ceiling,
            "fastnas": decoder_parameters(found.model, inputs.dense),
        },
        "perplexity": {
            "dense": perplexity_of(inputs.dense.model, inputs),
            "fastnas": perplexity_of(found.model, inputs),
            "reconstructed": {str(seed): reconstructed(inputs, found.architecture, seed, ridge) for seed in seeds},
        },
        "num_scores": found.num_scores,
        "seconds": round(found.seconds, 1),
    }


def table_of(runs: list[dict[str, Any]]) -> Table:
    table = Table(title="evaluation perplexity; median over seeds (lowest to highest)", title_justify="left")
    titles = ("keep", "searched", "parameters", "budget", "dense", "fastnas", "reconstructed", "scores", "widths")
    for title in titles:
        table.add_column(title, justify="right")
    for run in runs:
        perplexities = run["perplexity"]
        values = perplexities["reconstructed"].values()
        table.add_row(
            str(run["keep"]),
            run["searched"],
            f"{run['decoder_parameters']['fastnas']:,}",
            f"{run['decoder_parameters']['budget']:,}",
            f"{perplexities['dense']:.3f}",
            f"{perplexities['fastnas']:.3f}",
            f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})",
            str(run["num_scores"]),
            " ".join(map(str, run["widths"])),
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--keep", action="append", type=float)
    parser.add_argument("--seed", action="append", type=int)
    parser.add_argument("--name", default="demo")
    arguments = parser.parse_args()
    quiet_libraries()
    warnings.filterwarnings("ignore", module="modelopt")
    import modelopt  # noqa: PLC0415

    runs = []
    for keep in arguments.keep or [0.8, 0.5]:
        layers: dict[str, Any] = {"model": {"name": arguments.model}, "budget": {"keep": keep}}
        if arguments.data:
            layers["data"] = {"sources": arguments.data}
        config = resolve(build_config([layers]))
        inputs = load_inputs(config)
        runs += [figures(inputs, config, with_heads, arguments.seed or [0, 1, 2]) for with_heads in (False, True)]
    record = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": platform.machine(), "torch_threads": torch.get_num_threads(), "gpu": False},
        "torch": torch.__version__,
        "modelopt": modelopt.__version__,
        "model": Path(arguments.model).name,
        "data": [Path(source).name for source in arguments.data] or ["demo"],
        "runs": runs,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"fastnas-{arguments.name}.json").write_text(json.dumps(record, indent=2) + "\n")
    Console(width=200).print(table_of(runs))


if __name__ == "__main__":
    main()
