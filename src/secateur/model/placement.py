"""On which devices a model's modules lie, as accelerate's `device_map` says it."""

from collections.abc import Mapping

import torch
from transformers import PreTrainedModel

from secateur.errors import ConfigError, ModelError

DeviceMap = str | Mapping[str, int | str]
STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
# A run keeps the weights of CPU layers in files anyway (`mapped`), so `disk` is no other place.
HOST = ("cpu", "disk")


def resolve_device_map(device: str, device_map: DeviceMap) -> str | dict[str, int | str]:
    """Give what transformers is handed; layers on the disk count as on the CPU, and so does all without a GPU.

    Raises:
        ConfigError: A device is named as well, the strategy is unknown, or layers are shared between GPUs and the CPU.
    """
    if device != "auto":
        raise ConfigError(f"model.device={device} and model.device_map={device_map!r} place the model; leave one out")
    if isinstance(device_map, str):
        if device_map not in STRATEGIES:
            known = ", ".join(STRATEGIES)
            raise ConfigError(f"model.device_map={device_map!r} is unknown; known: {known}, or a mapping of modules")
        return device_map if torch.cuda.is_available() else {"": "cpu"}
    host = {name for name, place in device_map.items() if place in HOST}
    if host and len(host) < len(device_map):
        raise ConfigError(_offloaded(f"model.device_map puts {min(host)!r} on the CPU beside GPUs"))
    return {name: "cpu" if place in HOST else place for name, place in device_map.items()}


def on_host(device_map: str | Mapping[str, int | str]) -> bool:
    """Say whether a resolved map leaves everything on the CPU."""
    return not isinstance(device_map, str) and all(place == "cpu" for place in device_map.values())


def refuse_offloaded(model: PreTrainedModel) -> None:
    """Refuse a model of which accelerate has put a part where it cannot stay while it is computed with.

    Raises:
        ModelError: There is such a part.
    """
    away = next((name for name, parameter in model.named_parameters() if parameter.is_meta), None)
    if away is not None:
        raise ModelError(_offloaded(f"the devices are too small: {away!r} has been offloaded"))


def _offloaded(what: str) -> str:
    return (
        f"{what}, from where weights would be moved at every call, which candidates and gradients cannot use; give "
        "GPUs that hold all of it, model.dtype=bfloat16, or model.device=cpu"
    )
