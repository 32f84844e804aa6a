"""Write a soup as a Hugging Face folder: laid out as its first ingredient, averaged tensor by tensor."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from secateur.errors import ModelError
from secateur.export.modeling_file import MODULE, modeling_file
from secateur.model.checkpoint_files import read_json
from secateur.model.families import FAMILIES
from secateur.recovery.ingredients import Ingredient, StoredModel, is_floating
from secateur.recovery.soup import mean_of

# Weights in any format, and what a training leaves beside them.
WEIGHT_SUFFIXES: tuple[str, ...] = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".msgpack", ".h5")
WEIGHT_SUFFIXES += (".safetensors.index.json", ".bin.index.json")
OF_ITS_OWN = ("README.md", "soup.json", "adapter_config.json", "trainer_state.json")
TEMPLATES = "additional_chat_templates"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def write_soup(members: Sequence[Ingredient], layout: StoredModel, folder: Path) -> None:
    """Write the mean of some ingredients into a folder, which must not be there.

    In memory is one file's worth of the result, and of the ingredients one tensor at a time.

    Args:
        layout: Whose files say which tensor goes where, and whose config, tokenizer and modelling file are copied.
    """
    folder.mkdir(parents=True)
    for file, names in layout.files.items():
        tensors = {name: _stored(members, name, layout.heads[name].dtype) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
    # The same names and sizes in the same files: the index holds as it is.
    for index in layout.folder.glob("*.safetensors.index.json"):
        shutil.copyfile(index, folder / index.name)
    for path in layout.folder.iterdir():
        if path.is_file() and not path.name.startswith(".") and not _is_left(path.name):
            shutil.copyfile(path, folder / path.name)
    if (layout.folder / TEMPLATES).is_dir():
        shutil.copytree(layout.folder / TEMPLATES, folder / TEMPLATES)


def _stored(members: Sequence[Ingredient], name: str, dtype: str) -> Tensor:
    first = members[0].tensor(name)
    if not is_floating(first):
        return first
    return mean_of(each.tensor(name) for each in members).to(DTYPES[dtype]).contiguous()


def _is_left(name: str) -> bool:
    return name in OF_ITS_OWN or name.endswith(WEIGHT_SUFFIXES)


def runs_own_code(folder: Path, *, trusted: bool) -> bool:
    """Say whether loading a folder elsewhere runs a file of it, which is Secateur's own or was declared trusted.

    Raises:
        ModelError: The file is called Secateur's and is another.
    """
    config = read_json(folder / "config.json")
    family = FAMILIES.get(str(config.get("model_type", "")).removeprefix("secateur_"))
    if "auto_map" not in config or trusted:
        return "auto_map" in config
    if family is None or config["model_type"] == family.model_type:
        return False  # transformers has classes of its own for it, and was not asked to run others
    path = folder / f"{MODULE}.py"
    if not path.is_file() or path.read_text(encoding="utf-8") != modeling_file(family):
        raise ModelError(
            f"{path} is not the file that this version of Secateur writes; read it, then add --trust-remote-code"
        )
    return True
