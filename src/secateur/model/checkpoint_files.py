"""A stranger's checkpoint, looked at before anything is allocated or run: names, sizes and shapes must hold together.

safetensors and transformers check much of this themselves, later, and some of it only once memory was asked for.
"""

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from secateur.errors import ModelError

# Bytes that a JSON file or the head of a weights file may have; safetensors' own limit for the second.
MOST_JSON, MOST_HEAD = 64 << 20, 100_000_000
INDEX = "model.safetensors.index.json"
# Bits of an entry, as safetensors names types.
BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64},
    **{"F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8},
    **{"F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}
# Parameters that an entry of a file can stand for: eight of four bits lie in an integer of 32. And what small things a
# config may add that are in no file.
PACKED, SPARE = 8, 1 << 20


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a checkpoint.

    Raises:
        ModelError: It is too large, no JSON, nested too deeply, or no object.
    """
    size = path.stat().st_size
    if size > MOST_JSON:
        raise ModelError(f"{path} has {size:,} bytes, at most {MOST_JSON:,} are read; it is no file of a model")
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{path} is not a model's config or index: {type(error).__name__}: {error}; give a folder that "
            "save_pretrained wrote"
        ) from error
    if not isinstance(loaded, dict):
        raise ModelError(
            f"{path} is not a model's config or index: it holds a {type(loaded).__name__}, expected an object"
        )
    return loaded


def check_checkpoint(folder: Path, config: PreTrainedConfig, *, known: bool = True) -> None:
    """Refuse a local checkpoint whose files contradict themselves, each other, or its config.

    Args:
        known: The model is one of transformers' own, and can be built without running code of the folder.

    Raises:
        ModelError: Weights are pickled, an index names files elsewhere, a head does not fit its file, or the config
            asks for far more parameters than there are.
    """
    shapes = [shape for file in weight_files(folder) for shape in shapes_of(file).values()]
    if known:
        _check_config(folder, config, len(shapes), sum(map(math.prod, shapes)))


def weight_files(folder: Path) -> list[Path]:
    """Give the files that a checkpoint's weights are in.

    Raises:
        ModelError: There are none, or its index names files elsewhere.
    """
    if (folder / INDEX).is_file():
        return [folder / name for name in sorted(set(read_index(folder).values()))]
    found = sorted(folder.glob("*.safetensors"))
    pickled = sorted(path.name for kind in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(kind))
    if not found and pickled:
        raise ModelError(
            f"model folder {str(folder)!r} has its weights in {pickled[0]!r}, a pickle, which can run code when it is "
            "read; convert it to safetensors (save_pretrained does) where you trust it"
        )
    if not found:
        raise ModelError(f"model folder {str(folder)!r} has no *.safetensors; give a folder that save_pretrained wrote")
    return found


def read_index(folder: Path) -> dict[str, str]:
    """Give the file of each tensor, of a checkpoint in several files.

    Raises:
        ModelError: The index is none, or names files elsewhere or that are not there.
    """
    path = folder / INDEX
    names = read_json(path).get("weight_map")
    if not isinstance(names, Mapping) or not all(isinstance(name, str) for name in names.values()):
        raise ModelError(f"{path} has no weight_map from tensors to files; copy or download the checkpoint again")
    for name in sorted(set(names.values())):
        if name != Path(name).name or "\\" in name or name.startswith(".") or not name.endswith(".safetensors"):
            raise ModelError(
                f"{path} names {name!r}, expected *.safetensors files beside it; do not use this checkpoint"
            )
        # Unlike pathlib's, it says no to a name that is too long.
        if not os.path.isfile(folder / name):  # noqa: PTH113
            raise ModelError(f"{path} names {name!r}, which is not there; copy or download the checkpoint again")
    return dict(names)


def shapes_of(file: Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes of a safetensors file from its head, and hold them to its size.

    Raises:
        ModelError: The head is too large, is none, or does not fit what follows it.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(MOST_HEAD, size - 8):
            raise ModelError(
                f"{file} says that its head has {length:,} bytes, of {size:,} in all; it is damaged or no safetensors "
                "file: copy or download it again"
            )
        try:
            head = json.loads(opened.read(length))
            named = {name: entry for name, entry in head.items() if name != "__metadata__"}
            shapes = {name: tuple(entry["shape"]) for name, entry in named.items()}
            places = sorted((*entry["data_offsets"], name) for name, entry in named.items())
            _check_places(places, shapes, {name: entry["dtype"] for name, entry in named.items()}, size - 8 - length)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ModelError(f"{file} has a head that cannot be used ({reason}); copy or download it again") from error
    return shapes


def _check_places(
    places: list[tuple[int, int, str]], shapes: Mapping[str, tuple[int, ...]], types: Mapping[str, str], size: int
) -> None:
    """Hold tensors to the bytes that they are given, which must follow each other and be all there are."""
    reached = 0
    for begin, end, name in places:
        shape = shapes[name]
        if not all(type(extent) is int and extent >= 0 for extent in shape):
            raise ValueError(f"tensor {name!r} has the shape {shape}")
        needed = math.prod(shape) * BITS[types[name]] // 8
        if begin != reached or end - begin != needed:
            raise ValueError(f"tensor {name!r} of shape {shape} needs {needed:,} bytes and lies at {begin} to {end}")
        reached = end
    if reached != size:
        raise ValueError(f"its tensors end at {reached:,} of {size:,} bytes")


def _check_config(folder: Path, config: PreTrainedConfig, tensors: int, entries: int) -> None:
    """Hold a config to what its files have, before a model of it is built."""
    layers = getattr(config, "num_hidden_layers", 0)
    if not 0 <= layers <= tensors:
        # Every layer has a tensor at least; building one on no device still takes time.
        raise ModelError(_too_much(folder, f"num_hidden_layers={layers:,}", f"{tensors:,} tensors"))
    embedded = getattr(config, "vocab_size", 0) * getattr(config, "hidden_size", 0)
    if not 0 <= embedded <= PACKED * entries + SPARE:
        raise ModelError(_too_much(folder, f"vocab_size x hidden_size={embedded:,}", f"{entries:,} entries"))
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"no model can be made of {str(folder)!r}: {type(error).__name__}: {reason}") from error
    parameters = sum(each.numel() for each in model.parameters())
    if parameters > PACKED * entries + SPARE:
        raise ModelError(_too_much(folder, f"{parameters:,} parameters", f"{entries:,} entries"))


def _too_much(folder: Path, what: str, held: str) -> str:
    return (
        f"the config of {str(folder)!r} asks for {what}, and its files hold {held}; it is damaged, or made to fill "
        "memory: do not use this checkpoint"
    )
