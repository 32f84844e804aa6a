"""A small network that learns beside the model, and can be put aside and taken up."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

ENTRIES = ("step", "exp_avg", "exp_avg_sq")


class Learned:
    """A network with the state of its Adam, as named tensors."""

    def __init__(self, network: nn.Module, learning_rate: float) -> None:
        self.network = network
        self._optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)

    def lower(self, *losses: Callable[[], Tensor]) -> None:
        """Take a step that lowers a sum of losses, of which one at a time is computed."""
        self._optimizer.zero_grad(set_to_none=True)
        for loss in losses:
            loss().backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self._optimizer.step()

    def state(self) -> dict[str, Tensor]:
        state = {}
        for name, parameter in self.network.named_parameters():
            state[f"value {name}"] = parameter.detach()
            for entry, value in self._optimizer.state.get(parameter, {}).items():
                state[f"{entry} {name}"] = value.detach()
        return state

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` gave; what is not there yet has not been learned."""
        self._optimizer.state.clear()
        for name, parameter in self.network.named_parameters():
            parameter.copy_(state[f"value {name}"])
            own = {entry: state[f"{entry} {name}"].clone() for entry in ENTRIES if f"{entry} {name}" in state}
            if own:
                self._optimizer.state[parameter] = {
                    entry: value if entry == "step" else value.to(parameter.device) for entry, value in own.items()
                }
