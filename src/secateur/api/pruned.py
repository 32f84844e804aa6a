"""A pruned model that a run has exported: loaded when it is asked for, saved and pushed as it was verified."""

import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from secateur.errors import ConfigError, RunFolderError
from secateur.model.loading import DTYPES
from secateur.report.record import ExportRecord, ModelRow
from secateur.space.architecture import Architecture


@dataclass(frozen=True)
class PrunedModel:
    """One pruned model in an exported folder, with what was measured of it.

    The folder was loaded in a process of its own, where it gave the logits of the model that was evaluated, before
    anybody sees this.

    Attributes:
        folder: Where it lies; in the run folder, and gone with a temporary one.
        row: Its perplexity, KL and cost on the evaluation set.
        exported: What the process that loaded the folder has seen.
        placement: What `from_pretrained` is told of devices, and where the model goes afterwards.
        kept: Holds a temporary run folder as long as this is there.
    """

    folder: Path
    row: ModelRow
    exported: ExportRecord
    placement: "Placement" = field(repr=False)
    kept: object = field(default=None, repr=False, compare=False)

    @property
    def architecture(self) -> Architecture:
        """What is kept of every layer."""
        return self.row.architecture

    @cached_property
    def model(self) -> PreTrainedModel:
        """The pruned model, ready to generate and to be trained, in the type that it was exported in.

        Loaded from the folder when first asked for, onto the device of the dense model. Changing it changes nothing
        else: `save_pretrained` of this object writes what was exported, `model.save_pretrained` what has become of it.

        Raises:
            ConfigError: It was exported for llama.cpp.
        """
        if not (self.folder / "config.json").is_file():
            raise ConfigError(
                f"{self.folder} holds a file for llama.cpp ({self.exported.class_name}) and no model of transformers; "
                "prune with another target to have one"
            )
        loaded = AutoModelForCausalLM.from_pretrained(
            self.folder, dtype=DTYPES[self.exported.dtype], device_map=self.placement.device_map
        )
        if self.placement.device is not None:
            loaded.to(self.placement.device)  # type: ignore[arg-type]
        return loaded

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The dense model's tokenizer, as it lies in the folder."""
        return AutoTokenizer.from_pretrained(self.folder)

    def save_pretrained(self, directory: str | Path) -> Path:
        """Write the exported model into a folder: weights, config, tokenizer, card, modelling file if it has one.

        The files are those that were verified, byte for byte. Plain transformers loads them, with
        `trust_remote_code=True` where the layers differ in size (`exported.loading_line` says so), or without after
        `import secateur`.

        Args:
            directory: Made if it is missing; must be empty.

        Raises:
            RunFolderError: It is a file, or something is in it.
        """
        target = Path(directory)
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise RunFolderError(f"{target} is there already and is not empty; choose another folder to save to")
        shutil.copytree(self.folder, target, dirs_exist_ok=True)
        return target

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload a model pruned by Secateur",
        **kwargs: Any,
    ) -> str:
        """Upload what `save_pretrained` writes to a repository on the Hugging Face hub, made if it is missing.

        Args:
            repo_id: `name` or `organisation/name`.
            token: As huggingface_hub takes it; the stored one if not given.
            kwargs: Further arguments of `HfApi.upload_folder`, such as `create_pr=True`.

        Returns:
            The address of the repository.
        """
        hub = HfApi(token=token)
        made = hub.create_repo(repo_id, private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=made.repo_id,
            folder_path=self.folder,
            revision=revision,
            commit_message=commit_message,
            **kwargs,
        )
        return str(made)


@dataclass(frozen=True)
class Placement:
    """Where a pruned model is loaded to."""

    device: torch.device | None = None
    device_map: str | dict[str, int | str] | None = None

    @classmethod
    def like(cls, model: PreTrainedModel) -> "Placement":
        """Load to where a model lies: to its device, or over devices where it is spread over several."""
        devices = {parameter.device for parameter in model.parameters()}
        return cls(device_map="auto") if len(devices) > 1 else cls(device=model.device)
