"""From a name to a dense model: a local folder, a hub id, or the embedded demo."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import CONFIG_NAME
from transformers.utils.hub import cached_file, extract_commit_hash

from secateur.errors import ModelError
from secateur.model.checkpoint_files import check_checkpoint, read_json
from secateur.model.families import Family, find_family, with_experts
from secateur.model.mapped import MappedWeights, check_room
from secateur.model.placement import DeviceMap, on_host, refuse_offloaded, resolve_device_map
from secateur.model.separate import separate
from secateur.model.shape import DenseShape, decoder_layers, read_shape
from secateur.model.stored import has_buffers_of, stored_alike

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class DenseModel:
    """A dense model ready to be measured, with what it was stored as, and its layers' weights where they are mapped."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    family: Family
    shape: DenseShape
    stored_dtype: str
    mapped_layers: tuple[MappedWeights, ...] = ()

    def release(self, layer: int | None = None) -> None:
        """Let a layer's weights, or all layers', leave memory until they are used, where they are mapped."""
        for weights in self.mapped_layers if layer is None else self.mapped_layers[layer : layer + 1]:
            weights.release()

    def fingerprint(self) -> str:
        """Identify the weights."""
        return weights_fingerprint(self.model)


def weights_fingerprint(model: PreTrainedModel) -> str:
    """Identify weights by 64 entries of every tensor, spread over it: cheap, and any fine-tuning changes it."""
    hasher = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().flatten()
        positions = torch.linspace(0, len(flat) - 1, min(64, len(flat)), dtype=torch.float64).long()
        spread = flat[positions.to(flat.device)].float().cpu()
        hasher.update(f"{name}{tuple(parameter.shape)}".encode() + spread.numpy().tobytes())
    return hasher.hexdigest()[:16]


def choose_device(name: str) -> torch.device:
    """Resolve `auto` to a GPU where there is one.

    Raises:
        ModelError: `cuda` is asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError("device 'cuda' was asked for, but torch sees no GPU; use --device cpu or auto")
    return torch.device(name)


def load_causal_model(
    name: str,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    device_map: DeviceMap | None = None,
    *,
    as_stored: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """Load any causal model of transformers with its tokenizer, in evaluation mode.

    Args:
        dtype: `auto` computes in float32 on a CPU and in the stored type on a GPU.
        device_map: As accelerate takes it; in place of a device.
        as_stored: Leave parameters on a CPU in the type that they are stored in, if only they depend on it: they are
            then views of the checkpoint's files, and take no memory. `config.dtype` says what was wanted.

    Returns:
        Model, tokenizer, and the name of the dtype that the checkpoint is stored in.

    Raises:
        ModelError: The folder is missing, holds no model, or its files cannot be read.
        ConfigError: The device map cannot be used.
    """
    places = resolve_device_map(device, device_map) if device_map is not None else None
    target = choose_device(device) if places is None else None
    on_cpu = target.type == "cpu" if target is not None else places is not None and on_host(places)
    config = read_config(name, revision, trust_remote_code)
    if Path(name).is_dir():
        check_checkpoint(Path(name), config, known=type(config) in MODEL_FOR_CAUSAL_LM_MAPPING)
    stored = config.dtype

    def load(wanted: torch.dtype | str) -> tuple[PreTrainedModel, dict[str, Any]]:
        return AutoModelForCausalLM.from_pretrained(  # type: ignore[return-value]
            name,
            dtype=wanted,
            revision=revision,
            trust_remote_code=trust_remote_code,
            # Never a pickle, of the hub either.
            use_safetensors=True,
            output_loading_info=True,
            device_map=places,
        )

    with _refusing(name, trust_remote_code):
        # A config that does not say what its tensors are stored in is rare; only loading them tells.
        stored_name = str(stored or load("auto")[0].dtype).removeprefix("torch.")
        chosen = dtype if dtype != "auto" else ("float32" if on_cpu else stored_name)
        keeps = as_stored and on_cpu and chosen != stored_name and stored_alike(Path(name), stored_name)
        model, loading = load(DTYPES[stored_name if keeps else chosen])
        if keeps and has_buffers_of(model, DTYPES[stored_name]):
            model, loading = load(DTYPES[chosen])
        model.config.dtype = DTYPES[chosen]
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    absent = sorted(loading["missing_keys"])
    if absent:
        raise ModelError(
            f"model {name!r} lacks {len(absent)} tensors that its config asks for, {absent[0]!r} the first; "
            "the checkpoint is incomplete: copy or download it again"
        )
    if target is not None:
        model.to(target)  # type: ignore[arg-type]
    refuse_offloaded(model)
    return model.eval(), tokenizer, stored_name


def commit_of(name: str, revision: str | None = None) -> str | None:
    """Give the commit that a revision of a hub model is now; None for a folder, or where the hub does not say."""
    if Path(name).exists():
        return None
    try:
        return extract_commit_hash(cached_file(name, CONFIG_NAME, revision=revision), None)
    except (OSError, ValueError):
        # Whoever loads the model says what is wrong.
        return None


def read_config(name: str, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedConfig:
    """Read a model's config, and none of its weights.

    Raises:
        ModelError: The folder is missing or holds no model, or the config cannot be read.
    """
    path = Path(name)
    if path.exists() and not (path / "config.json").is_file():
        raise ModelError(f"model folder {name!r} has no config.json; give a folder that save_pretrained wrote")
    if not path.exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ModelError(f"model folder {name!r} does not exist; give a local folder, a hub id, or 'demo'")
    if path.exists():
        read_json(path / "config.json")
    with _refusing(name, trust_remote_code):
        return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)


@contextmanager
def _refusing(name: str, trust_remote_code: bool) -> Iterator[None]:
    """Turn what transformers, safetensors and the hub raise for a bad checkpoint, each its own kinds, into one line."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())
        if "trust_remote_code" in reason and not trust_remote_code:
            raise ModelError(
                f"model {name!r} comes with its own modelling code, not run unless asked for; read it, then add"
                " --trust-remote-code (evaluate) or --set model.trust_remote_code=true (prune)"
            ) from error
        raise ModelError(f"model {name!r} cannot be loaded: {type(error).__name__}: {reason[:300]}") from error


def read_model_type(name: str) -> str:
    """Read the family of a local model without loading it; empty for a hub id.

    Raises:
        ModelError: There is a folder of that name, but its config.json cannot be read.
    """
    path = Path(name) / "config.json"
    if not path.is_file():
        return ""
    config = read_json(path)
    if not isinstance(config.get("model_type"), str):
        raise ModelError(
            f"{path} is not a model's config: it has no model_type; give a folder that save_pretrained wrote"
        )
    return str(config["model_type"])


def load_dense(
    name: str,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    device_map: DeviceMap | None = None,
    scratch: Path | None = None,
    experts: Literal["widths", "whole"] = "widths",
) -> DenseModel:
    """Load a dense decoder of a known family.

    Args:
        scratch: Folder for files of its weights, from which they are mapped where they are computed with on a CPU: then
            they need not all be in memory, and it is never there twice.
        experts: Whether the groups of a mixture are channels of all experts, or whole experts.

    Raises:
        ModelError: As `load_causal_model`, the family is unknown or has no experts to cut whole, or the folder has too
            little room.
        ConfigError: The device map cannot be used.
    """
    # Before the weights, which may be a long download. A local folder's family is read without transformers, which does
    # not know every family and would say so in other words.
    family = find_family(read_model_type(name) or read_config(name, revision, trust_remote_code).model_type)
    family = with_experts(family, experts)
    model, tokenizer, stored = load_causal_model(
        name, device, dtype, revision, trust_remote_code, device_map, as_stored=scratch is not None
    )
    return as_dense(name, model, tokenizer, family, stored, scratch)


def as_dense(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    family: Family,
    stored: str,
    scratch: Path | None = None,
) -> DenseModel:
    """Make a dense model of one of transformers, in place.

    Args:
        stored: Name of the dtype that its weights are stored in; `config.dtype` says what they are computed in.
        scratch: As `load_dense` takes it; weights become `config.dtype` there.

    Raises:
        ModelError: The family does not know such a model, or the folder has too little room.
    """
    model.requires_grad_(False)
    for entry, wanted in family.wanted:
        found = getattr(model.config, entry, wanted)
        if (tuple(found) if isinstance(found, list) else found) != wanted:
            raise ModelError(
                f"model {name!r} has {entry}={found}; of family {family.model_type!r} only models with {entry}={wanted}"
                " can be pruned"
            )
    separate(model, family)
    shape = read_shape(model, family)
    layers: tuple[MappedWeights, ...] = ()
    if scratch is not None:
        computed = model.config.dtype
        assert isinstance(computed, torch.dtype), "set when it was loaded"
        check_room(model, scratch, computed)
        in_layers = [list(layer.parameters()) for layer in decoder_layers(model, family)]
        known = {id(parameter) for own in in_layers for parameter in own}
        MappedWeights((each for each in model.parameters() if id(each) not in known), scratch, computed)
        layers = tuple(MappedWeights(own, scratch, computed) for own in in_layers)
    return DenseModel(name, model, tokenizer, family, shape, stored, layers)
