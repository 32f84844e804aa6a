"""QLoRA: adapters are trained on projections that are held in four bits, so that a larger model fits."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.errors import ConfigError
from secateur.model.mapped import MappedWeights
from secateur.recovery.lora import LowRank
from secateur.recovery.trainee import projections

NEEDS = "recovery by QLoRA needs the extra: pip install 'secateur[qlora]'"
# What the adapters are merged into; nothing is merged where the pruned model as it was does better than either.
MergedInto = Literal["original", "dequantized", "nothing"]


class QuantizedLowRank(LowRank):
    """Adapters on projections in four bits; what is left at the end has full precision again.

    What was trained is exactly the adapters on the dequantised weights. On the original ones they are usually a bit
    better, since the rounding that they were not trained for is gone. The selection set decides, and may say that the
    pruned model was better than both.

    Source:
        QLoRA (arXiv 2305.14314): blocks of 64 weights in NF4, their scales in 8 bits; the computation is bitsandbytes'.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        rank: int,
        alpha: int,
        judge: Callable[[PreTrainedModel], float],
        dropout: float = 0.0,
        part: str = "all",
        seed: int = 0,
        folder: Path | None = None,
    ) -> None:
        """Put the weights of the projections aside, and adapters on what is left of them in four bits.

        Args:
            judge: Gives a model's selection loss.
            folder: For the weights that are put aside; in memory, on the CPU, if not given.

        Raises:
            ConfigError: bitsandbytes or peft is not installed, or projections are no `nn.Linear`.
            ModelError: The model has no projections to adapt.
        """
        try:
            import bitsandbytes  # noqa: PLC0415  an extra
        except ImportError as error:
            raise ConfigError(NEEDS) from error
        self._bitsandbytes: Any = bitsandbytes
        self._judge = judge
        self._device = model.device
        self.merged_into: MergedInto = "nothing"
        self._linears = _linears(model, part)
        for name, linear in self._linears.items():
            model.set_submodule(name, self._quantized(linear))
            linear.weight.data = linear.weight.detach().cpu()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            aside = [nn.Parameter(linear.weight, requires_grad=False) for linear in self._linears.values()]
            MappedWeights(aside, folder).release()
            for linear, parameter in zip(self._linears.values(), aside, strict=True):
                linear.weight = parameter
        super().__init__(model, rank, alpha, dropout, part, seed)

    def _quantized(self, linear: nn.Linear) -> nn.Module:
        """Give the projection in four bits; its bias is the same."""
        library, weight = self._bitsandbytes, linear.weight.detach()
        layer = library.nn.Linear4bit(
            linear.in_features, linear.out_features, bias=False, compute_dtype=weight.dtype, device="meta"
        )
        held = library.nn.Params4bit(weight, compress_statistics=True, quant_type="nf4", module=layer)
        layer.weight = held.to(weight.device)
        layer.bias = linear.bias
        # Some processors would compute in bfloat16 wherever nothing is trained, so also where the model is judged.
        layer.support_avx512bf16_for_cpu = False
        return layer

    @torch.no_grad()
    def finish(self) -> PreTrainedModel:
        """Merge the adapters into what does best on the selection set; no projection is in four bits any more."""
        changes = {name: self._module(name).get_delta_weight("default").cpu() for name in self._linears}
        held = {name: self._module(name).get_base_layer().weight for name in self._linears}
        model: PreTrainedModel = self._adapted.unload()
        self._every_expert.close()
        for name, linear in self._linears.items():
            model.set_submodule(name, linear)
        model.requires_grad_(False).eval()
        originals = {name: linear.weight.detach() for name, linear in self._linears.items()}

        def dequantized(name: str) -> Tensor:
            four_bits = held[name]
            whole: Tensor = self._bitsandbytes.functional.dequantize_4bit(four_bits.data, four_bits.quant_state)
            return whole.cpu() + changes[name]

        weights: dict[MergedInto, Callable[[str], Tensor]] = {
            "nothing": lambda name: originals[name],
            "original": lambda name: originals[name] + changes[name],
            "dequantized": dequantized,
        }
        losses: dict[MergedInto, float] = {}
        for merged_into, weight_of in weights.items():
            self._set(weight_of)
            losses[merged_into] = self._judge(model)
        self.merged_into = min(losses, key=lambda each: losses[each])
        self._set(weights[self.merged_into])
        return model

    @torch.no_grad()
    def discard(self) -> PreTrainedModel:
        """Take the adapters off, unmerged, and put the original weights back."""
        model: PreTrainedModel = self._adapted.unload()
        self._every_expert.close()
        for name, linear in self._linears.items():
            model.set_submodule(name, linear)
        self._set(lambda name: self._linears[name].weight.detach())
        return model.requires_grad_(False).eval()

    def _module(self, name: str) -> Any:
        return self._model.get_submodule(name)

    def _set(self, weight_of: Callable[[str], Tensor]) -> None:
        for name, linear in self._linears.items():
            weight = weight_of(name).to(self._device, linear.weight.dtype)
            linear.weight = nn.Parameter(weight, requires_grad=False)


def _linears(model: PreTrainedModel, part: str) -> Mapping[str, nn.Linear]:
    targets = projections(model, part)
    linears = {name: module for name, module in targets.items() if isinstance(module, nn.Linear)}
    if len(linears) < len(targets):
        other = next(type(module).__name__ for name, module in targets.items() if name not in linears)
        raise ConfigError(
            f"recovery.method=qlora: the projections of a {type(model).__name__} are {other}, expected Linear, which "
            "alone has a form in four bits; use recovery.method=lora"
        )
    return linears
