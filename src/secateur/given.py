"""What a call in Python hands over beside the configuration: a model and texts that are in memory already.

The configuration says that they are (`model.in_memory`, sources that begin with `memory:`), so that a run folder knows
what it cannot read back by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.config import RunConfig
from secateur.data import IN_MEMORY, Texts
from secateur.demo import decoder_path
from secateur.errors import ConfigError, ModelError
from secateur.model.live import live_dense
from secateur.model.loading import DenseModel, load_dense
from secateur.schema import digest


@dataclass(frozen=True)
class Given:
    """A model with its tokenizer, where it is not loaded by name, and documents by the name of their source."""

    model: PreTrainedModel | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    texts: Texts = field(default_factory=dict)


NOTHING_GIVEN = Given()


def memory_source(documents: Sequence[str]) -> str:
    """Name documents by what is in them, so that a run folder can tell whether they are the same again."""
    return IN_MEMORY + digest(list(documents))


def dense_of(config: RunConfig, given: Given = NOTHING_GIVEN, scratch: Path | None = None) -> DenseModel:
    """Load the model that a configuration names, or take the one that was given.

    Args:
        scratch: As `load_dense` takes it.

    Raises:
        ModelError: As `load_dense`, or the configuration's model is in memory and none was given.
        ConfigError: The configuration places a model that is there already somewhere else.
    """
    model = config.model
    if not model.in_memory:
        name = str(decoder_path()) if model.name == "demo" else model.name
        return load_dense(
            name,
            model.device,
            model.dtype,
            model.revision,
            model.trust_remote_code,
            model.device_map,
            scratch,
            config.space.experts,
        )
    if given.model is None or given.tokenizer is None:
        raise ModelError(
            f"the run was begun in Python on a model in memory ({model.name}); go on with it there: "
            "secateur.prune(model, tokenizer, ...) with the same arguments and out="
        )
    if model.device_map is not None or model.device not in ("auto", given.model.device.type):
        raise ConfigError(
            f"model.device={model.device}, model.device_map={model.device_map!r}: a model in memory is pruned where it "
            f"lies, here on {given.model.device}; leave them out, or move it with model.to()"
        )
    return live_dense(given.model, given.tokenizer, model.dtype, scratch, config.space.experts)
