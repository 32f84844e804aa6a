"""A mixture of experts as one wide MLP whose channels are weighted by the router, so that it is cut as any other.

What comes out of the experts is linear in their projections out, so with `r` the router's weight of the channel's
expert for a token, zero where the token does not go there,

    mixture(x) = W_down (r(x) * act(W_gate x) * W_up x) + what stands beside it (a shared expert)

is the same function with ordinary `nn.Linear`s. Who wants to see what goes into `W_down` asks for `every_expert`, which
computes all of them for every token: experts / experts per token times the work. Otherwise a token's own are computed.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from secateur.model.families import Experts, MlpNames

# The router's place in the wide MLP.
ROUTER = "router"


@dataclass(frozen=True)
class ExpertLayout:
    """Where the channels of each expert lie among those of the wide MLP.

    Attributes:
        width: Channels of each expert.
        whole: A group is an expert, and its channels lie together; otherwise a group is one channel of every expert,
            and these lie together.
    """

    num_experts: int
    width: int
    whole: bool

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], *, whole: bool) -> "ExpertLayout":
        """Read the sizes off the weights `gate` and `router` of a wide MLP."""
        experts = len(weights["router"])
        return cls(experts, len(weights["gate"]) // experts, whole)

    @property
    def num_groups(self) -> int:
        return self.num_experts if self.whole else self.width

    def split(self, tensor: Tensor, axis: int = 0) -> Tensor:
        """Turn the axis of all channels into two: expert, and channel of it."""
        sizes = (self.num_experts, self.width) if self.whole else (self.width, self.num_experts)
        parts = tensor.unflatten(axis, sizes)
        first = axis % tensor.ndim
        return parts if self.whole else parts.transpose(first, first + 1)

    def join(self, parts: Tensor, axis: int = 0) -> Tensor:
        """Take `split` back; `axis` is the experts'."""
        return (parts if self.whole else parts.transpose(axis, axis + 1)).flatten(axis, axis + 1)


class Mixture(nn.Module):
    """A mixture of experts, rewritten. Numbers of experts and channels are read off the weights.

    Where fewer experts are left than a token went to, it goes to all of them.
    """

    def __init__(self, stock: nn.Module, names: Experts, *, normalized: bool) -> None:
        """Take a stock module apart; its own layers are used where they are not rewritten.

        Args:
            normalized: The router's weights of a token are made to add up to one.
        """
        super().__init__()
        experts: Any = stock.get_submodule(names.module)
        router: Any = stock.get_submodule(names.router)
        gate, up = _weight(experts, "gate_up_proj").chunk(2, dim=1)
        down = _weight(experts, "down_proj")
        layout = ExpertLayout(len(down), down.shape[2], names.whole)
        self.gate_proj = _linear(layout.join(gate))
        self.up_proj = _linear(layout.join(up))
        self.down_proj = _linear(layout.join(down.transpose(0, 1), axis=1))
        self.router = _linear(_weight(router, "weight"))
        self.act_fn: Any = experts.act_fn
        self.experts_per_token = int(router.top_k)
        self.normalized = normalized
        self.computes_every_expert = False
        self._names = names
        for name in filter(None, (names.shared, names.shared_gate)):
            self.add_module(name, stock.get_submodule(name))
        # In a tuple, so that it is no submodule: what a stock module of this one's weights is made from.
        self._emptied = (_emptied(stock, names),)

    @property
    def layout(self) -> ExpertLayout:
        if self.gate_proj.weight.is_floating_point():
            return ExpertLayout.of(self._weights(), whole=self._names.whole)
        # In four bits weights have another shape (recovery/quantized_lora.py).
        experts = len(self.router.weight)
        return ExpertLayout(experts, self.gate_proj.out_features // experts, self._names.whole)

    def forward(self, hidden_states: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch hidden"]:
        routed = self._every_expert if self.computes_every_expert else self._chosen_experts
        return routed(hidden_states) + self.beside(hidden_states)

    def _every_expert(self, hidden_states: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch hidden"]:
        inner = self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states)
        layout = self.layout
        weighted = layout.split(inner, -1) * self.routing(hidden_states).unsqueeze(-1)
        output: Tensor = self.down_proj(layout.join(weighted, weighted.ndim - 2))
        return output

    def _chosen_experts(self, hidden_states: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch hidden"]:
        layout, rows = self.layout, hidden_states.flatten(0, -2)
        gates, ups = (layout.split(part.weight).unbind(0) for part in (self.gate_proj, self.up_proj))
        downs = layout.split(self.down_proj.weight, 1).unbind(1)
        output = torch.zeros_like(rows)
        for gate, up, down, weight in zip(gates, ups, downs, self.routing(rows).unbind(1), strict=True):
            tokens = weight.nonzero().flatten()
            own = rows[tokens]
            inner = self.act_fn(F.linear(own, gate)) * F.linear(own, up) * weight[tokens].unsqueeze(1)
            output = output.index_add(0, tokens, F.linear(inner, down))
        return output.view_as(hidden_states)

    def routing(self, hidden_states: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch experts"]:
        """Give every expert's weight for every token: zero where the token does not go."""
        probabilities = self.router(hidden_states).float().softmax(-1)
        chosen, indices = probabilities.topk(min(self.experts_per_token, probabilities.shape[-1]), dim=-1)
        if self.normalized:
            chosen = chosen / chosen.sum(-1, keepdim=True)
        return torch.zeros_like(probabilities).scatter(-1, indices, chosen).to(hidden_states.dtype)

    def beside(self, hidden_states: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch hidden"] | float:
        """Give what is added to what the experts give: the shared expert, which every token goes to, or nothing."""
        if not self._names.shared:
            return 0.0
        gate = self.get_submodule(self._names.shared_gate)(hidden_states).sigmoid()
        return gate * self.get_submodule(self._names.shared)(hidden_states)

    def stock(self) -> nn.Module:
        """Give the stock module that computes the same, with copies of the weights."""
        names, layout = self._names, self.layout
        module = copy.deepcopy(self._emptied[0])
        experts: Any = module.get_submodule(names.module)
        router: Any = module.get_submodule(names.router)
        for name, tensor in stock_weights(self._weights(), layout).items():
            holder = router if name == "router" else experts
            entry = "weight" if name == "router" else name
            setattr(holder, entry, nn.Parameter(tensor.detach().clone(), requires_grad=False))
        experts.num_experts, experts.intermediate_dim = layout.num_experts, layout.width
        router.num_experts = layout.num_experts
        router.top_k = min(self.experts_per_token, layout.num_experts)
        for name in filter(None, (names.shared, names.shared_gate)):
            module.set_submodule(name, copy.deepcopy(self.get_submodule(name)))
        return module

    def _weights(self) -> dict[str, Tensor]:
        parts = {"gate": self.gate_proj, "up": self.up_proj, "down": self.down_proj, "router": self.router}
        return {name: part.weight for name, part in parts.items()}


def stock_weights(weights: Mapping[str, Tensor], layout: ExpertLayout) -> dict[str, Tensor]:
    """Turn the weights `gate`, `up`, `down` and `router` of a wide MLP into those of a stock mixture."""
    into = torch.cat([layout.split(weights["gate"]), layout.split(weights["up"])], dim=1)
    out = layout.split(weights["down"], 1).transpose(0, 1)
    return {"gate_up_proj": into.contiguous(), "down_proj": out.contiguous(), "router": weights["router"]}


@contextmanager
def every_expert(model: nn.Module) -> Iterator[None]:
    """Let the mixtures of a model compute every expert for every token, so that their projections are run."""
    mixtures = [module for module in model.modules() if isinstance(module, Mixture)]
    try:
        for mixture in mixtures:
            mixture.computes_every_expert = True
        yield
    finally:
        for mixture in mixtures:
            mixture.computes_every_expert = False


def layout_of(module: nn.Module) -> ExpertLayout | None:
    """Give the layout of a mixture; None of any other module."""
    return module.layout if isinstance(module, Mixture) else None


def beside_outputs(module: nn.Module, names: MlpNames) -> list[nn.Linear]:
    """Give the last projections of what stands beside a mixture's experts; none of any other module."""
    if names.experts is None or not names.experts.shared:
        return []
    shared = module.get_submodule(f"{names.experts.shared}.{names.output}")
    assert isinstance(shared, nn.Linear), "a shared expert is an MLP"
    return [shared]


def _weight(module: nn.Module, name: str) -> Tensor:
    parameter = getattr(module, name)
    assert isinstance(parameter, Tensor), f"{name} is a parameter"
    return parameter.detach()


def _linear(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    return linear


def _emptied(stock: nn.Module, names: Experts) -> nn.Module:
    """Give a copy of a stock module without the weights that the mixture holds."""
    spared: dict[int, Any] = {id(parameter): None for parameter in stock.parameters()}
    empty = copy.deepcopy(stock, memo={key: torch.nn.Parameter(torch.empty(0)) for key in spared})
    for name in filter(None, (names.shared, names.shared_gate)):
        empty.set_submodule(name, nn.Identity())
    return empty
