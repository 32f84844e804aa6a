"""Weights of finished recoveries in files: of a whole model, or of an adapter on a base; read a tensor at a time."""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import safe_open
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from secateur.errors import ModelError
from secateur.model.checkpoint_files import read_index, read_json

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What peft writes before a module's path, and behind it.
ADAPTER_PREFIX, LORA_A, LORA_B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
# Settings of an adapter with which it is more than W + s B A.
MORE_THAN_LORA = ("use_dora", "modules_to_save", "trainable_token_indices", "layer_replication", "lora_bias")

# What peft looks for in a module's path: names, dots, a few wildcards; nothing that backtracks for long.
PLAIN_PATTERN = re.compile(r"(?!(?:[^*]*\*){4})[\w.$^|*\\\[\]-]{1,200}")


@dataclass(frozen=True)
class Head:
    """What a file says of a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def text(self) -> str:
        return f"{list(self.shape)} {self.dtype}"


@runtime_checkable
class Ingredient(Protocol):
    """Weights of a finished recovery under the names of its checkpoint."""

    @property
    def folder(self) -> Path: ...

    @property
    def heads(self) -> Mapping[str, Head]:
        """Give what there is, as it is stored."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identify the weights by all their bytes."""
        ...

    def tensor(self, name: str) -> Tensor:
        """Read one; in no less than the type in which it is stored."""
        ...


@dataclass(frozen=True)
class StoredModel:
    """A Hugging Face folder with safetensors, in one file or several."""

    folder: Path

    @cached_property
    def files(self) -> Mapping[str, tuple[str, ...]]:
        """Which tensors lie in which file.

        Raises:
            ModelError: The folder has no safetensors, or not all that its index names.
        """
        if (self.folder / SAFE_WEIGHTS_INDEX_NAME).is_file():
            place_of = read_index(self.folder)
            return {file: tuple(n for n, own in place_of.items() if own == file) for file in place_of.values()}
        if not (self.folder / SAFE_WEIGHTS_NAME).is_file():
            raise ModelError(
                f"{self.folder} has no {SAFE_WEIGHTS_NAME}; a soup is made of folders with safetensors, as "
                "save_pretrained writes them"
            )
        return {SAFE_WEIGHTS_NAME: tuple(_heads(self.folder / SAFE_WEIGHTS_NAME))}

    @cached_property
    def heads(self) -> Mapping[str, Head]:
        found = {name: head for file in self.files for name, head in _heads(self.folder / file).items()}
        listed = {name for names in self.files.values() for name in names}
        if listed != set(found):
            raise ModelError(
                f"{self.folder}: {min(listed ^ set(found))} is in {SAFE_WEIGHTS_INDEX_NAME} or in the files, not in "
                "both; copy the folder again"
            )
        return found

    @cached_property
    def fingerprint(self) -> str:
        return _digest_of([self.folder / file for file in sorted(self.files)])

    def tensor(self, name: str) -> Tensor:
        file = self._file_of[name]
        with safe_open(self.folder / file, "pt") as opened:
            return opened.get_tensor(name)

    @cached_property
    def _file_of(self) -> dict[str, str]:
        return {name: file for file, names in self.files.items() for name in names}


@dataclass(frozen=True)
class Adapted:
    """A LoRA adapter in a folder, merged into its base as it is read: W + s B A, in float64.

    Source:
        LoRA (arXiv 2106.09685) with s = alpha / rank, or alpha / sqrt(rank) where the adapter says `use_rslora`
        (arXiv 2312.03732), as peft stores them.
    """

    base: StoredModel
    folder: Path

    @property
    def heads(self) -> Mapping[str, Head]:
        return self.base.heads

    @cached_property
    def fingerprint(self) -> str:
        return _digest_of([self.folder / ADAPTER_CONFIG, self.folder / ADAPTER_WEIGHTS])

    def tensor(self, name: str) -> Tensor:
        whole = self.base.tensor(name)
        module = self.adapted.get(name)
        if module is None:
            return whole
        a, b = (self._change.tensor(f"{module}{part}").double() for part in (LORA_A, LORA_B))
        delta = self._scale(module, a.shape[0]) * (b @ a)
        return whole.double().add_(delta.T if self.settings.get("fan_in_fan_out") else delta)

    @cached_property
    def adapted(self) -> Mapping[str, str]:
        """Give the module that changes each of the base's tensors, as the adapter's file calls it.

        Raises:
            ModelError: The adapter is no plain LoRA, or changes what the base does not have.
        """
        more = [name for name in MORE_THAN_LORA if self.settings.get(name)]
        if self.settings.get("peft_type") != "LORA" or more or self.settings.get("bias", "none") != "none":
            kind = more[0] if more else f"{self.settings.get('peft_type')}, bias={self.settings.get('bias')}"
            raise ModelError(f"{self.folder} is an adapter of another kind ({kind}) than plain LoRA; {MERGE}")
        modules = dict.fromkeys(name.removesuffix(LORA_A).removesuffix(LORA_B) for name in self._change.heads)
        found: dict[str, str] = {}
        for module in modules:
            known = {f"{module}{LORA_A}", f"{module}{LORA_B}"} <= set(self._change.heads)
            path = f"{module.removeprefix(ADAPTER_PREFIX)}.weight"
            # Checkpoints may leave out the first part of the path, as GPT-2's does.
            name = next((each for each in (path, path.partition(".")[2]) if each in self.base.heads), None)
            if not known or name is None:
                raise ModelError(
                    f"{self.folder} changes {module!r}, for which {self.base.folder} has no weight; {MERGE}"
                )
            self._check_shapes(name, module)
            found[name] = module
        self._check_scale()
        return found

    def _check_shapes(self, name: str, module: str) -> None:
        """Refuse A and B that do not make a matrix like the one they change."""
        a, b = (self._change.heads[f"{module}{part}"].shape for part in (LORA_A, LORA_B))
        whole = self.base.heads[name].shape
        if not (len(a) == len(b) == len(whole) == 2 and a[0] == b[1] > 0):
            raise ModelError(f"{self.folder} changes {module!r} by {list(b)} times {list(a)}, of which nothing is made")
        made = (a[1], b[0]) if self.settings.get("fan_in_fan_out") else (b[0], a[1])
        if made != whole:
            raise ModelError(
                f"{self.folder} changes {module!r} by {list(made)}, and {self.base.folder} has {list(whole)} there; "
                "name the model that it was trained on with --base"
            )

    def _check_scale(self) -> None:
        """Refuse settings that give no number, and patterns that could take forever to be looked for."""
        patterns = self.settings.get("alpha_pattern") or {}
        named = isinstance(patterns, dict) and all(PLAIN_PATTERN.fullmatch(key) for key in patterns)
        alphas = [self.settings.get("lora_alpha"), *(patterns.values() if named else ())]
        if not named or not all(isinstance(alpha, int | float) and math.isfinite(alpha) for alpha in alphas):
            raise ModelError(
                f"{self.folder / ADAPTER_CONFIG} has lora_alpha={self.settings.get('lora_alpha')!r} and "
                f"alpha_pattern={str(patterns)[:200]}, expected numbers, by names or plain patterns of modules; {MERGE}"
            )

    @cached_property
    def settings(self) -> dict[str, Any]:
        return read_json(self.folder / ADAPTER_CONFIG)

    @cached_property
    def _change(self) -> "_AdapterFile":
        return _AdapterFile(self.folder)

    def _scale(self, module: str, rank: int) -> float:
        patterns: dict[str, float] = self.settings.get("alpha_pattern") or {}
        path = module.removeprefix(ADAPTER_PREFIX)
        alpha = next((a for key, a in patterns.items() if re.match(rf"(.*\.)?({key})$", path)), None)
        alpha = float(self.settings["lora_alpha"] if alpha is None else alpha)
        return alpha / (math.sqrt(rank) if self.settings.get("use_rslora") else rank)


MERGE = "merge it into its base with peft (merge_and_unload) and give the folder of the whole model"


class _AdapterFile(StoredModel):
    @cached_property
    def files(self) -> Mapping[str, tuple[str, ...]]:
        path = self.folder / ADAPTER_WEIGHTS
        if not path.is_file():
            raise ModelError(f"{self.folder} has no {ADAPTER_WEIGHTS}; give what peft's save_pretrained wrote")
        return {ADAPTER_WEIGHTS: tuple(_heads(path))}


def open_ingredient(folder: Path, base: StoredModel | None = None) -> Ingredient:
    """Open a folder of a whole model, or of an adapter.

    Args:
        base: What adapters are merged into.

    Raises:
        ModelError: It is neither, cannot be read, or is an adapter and no base was given.
    """
    if not folder.is_dir():
        raise ModelError(f"ingredient {folder} is no folder; give local folders that save_pretrained wrote")
    if not is_adapter(folder):
        model = StoredModel(folder)
        model.heads  # noqa: B018  what cannot be read is refused now
        return model
    if base is None:
        raise ModelError(f"{folder} is an adapter (it has {ADAPTER_CONFIG}); name the model it belongs to with --base")
    adapter = Adapted(base, folder)
    adapter.adapted  # noqa: B018  the same
    return adapter


def is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def _heads(path: Path) -> dict[str, Head]:
    try:
        with safe_open(path, "pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118  it is no mapping
            return {name: Head(tuple(each.get_shape()), each.get_dtype()) for name, each in slices.items()}
    except Exception as error:  # safetensors raises its own kinds
        raise ModelError(f"{path} cannot be read as safetensors: {error}; copy the folder again") from error


def _digest_of(files: list[Path]) -> str:
    hasher = hashlib.sha256()
    for path in files:
        with path.open("rb") as opened:
            hasher.update(hashlib.file_digest(opened, "sha256").digest())
    return hasher.hexdigest()[:16]


def is_floating(tensor: Tensor) -> bool:
    """Say whether a tensor can be averaged; counts and masks cannot."""
    return tensor.dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
