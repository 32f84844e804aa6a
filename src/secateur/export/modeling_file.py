"""The modelling file of a family: the one for Llama, with the family's classes and the names of its parts."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from transformers import CONFIG_MAPPING

from secateur.model.families import AttentionNames, Family, MlpNames

MODULE = "modeling_secateur"
SOURCE = Path(__file__).with_name(f"{MODULE}.py")


def config_class_name(family: Family) -> str:
    """Name the config class that a family's modelling file defines."""
    return f"Secateur{family.class_prefix}Config"


def model_class_name(family: Family) -> str:
    """Name the model class that a family's modelling file defines."""
    return f"Secateur{family.class_name}"


def modeling_file(family: Family) -> str:
    """Write the modelling file of a family."""
    dense_config = CONFIG_MAPPING[family.model_type].__name__
    text = SOURCE.read_text()
    text = re.sub(
        r"^LAYERS = .*?^EXPERTS = \{\}\n", lambda _match: _tables(family), text, flags=re.DOTALL | re.MULTILINE
    )
    return (
        text.replace("import LlamaConfig as DenseConfig", f"import {dense_config} as DenseConfig")
        .replace("secateur_llama", f"secateur_{family.model_type}")
        .replace("LlamaForCausalLM", family.class_name)
        .replace("SecateurLlamaConfig", config_class_name(family))
        .replace("A Llama decoder", f"A {family.class_prefix} decoder")
    )


def _tables(family: Family) -> str:
    attention, mlp = family.attention, family.mlp
    counts = (*attention.head_counts, *attention.kv_head_counts, *attention.query_widths)
    return (
        f'LAYERS = "{family.layers}"\nWIDTH = "{mlp.width}"\n'
        f"ATTENTION = {_table(attention, counts)}\nMLP = {_table(mlp, ())}\nEXPERTS = {_experts_table(mlp)}\n"
    )


def _table(names: AttentionNames | MlpNames, counts: tuple[str, ...]) -> str:
    """Write the names of a block as the checkpoint has them: projections fused, and MLPs where the layer keeps them."""
    gathered = isinstance(names, MlpNames) and names.gathered is not None
    entries = {
        "norms": [norm for norm in (names.norm, names.post_norm) if norm],
        "module": "" if gathered else names.module,
        "into": [names.stacked.name] if names.stacked else list(names.inputs),
        "out": names.output,
        "cut_norms": [norm for norm, _ in names.cut_norms],
        "counts": list(counts),
    }
    return _lines(entries)


def _experts_table(mlp: MlpNames) -> str:
    experts = mlp.experts
    if experts is None:
        return "{}"
    return _lines({name: getattr(experts, name) for name in ("module", "router", "count", "width")})


def _lines(entries: Mapping[str, object]) -> str:
    lines = "".join(f'    "{name}": {json.dumps(value)},\n' for name, value in entries.items())
    return f"{{\n{lines}}}"
