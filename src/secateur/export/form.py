"""How an exported model is expressed, and how others load it."""

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class LoadableForm(Protocol):
    """What a model card says of a form."""

    @property
    def remote_code(self) -> bool: ...

    @property
    def needs(self) -> str: ...

    @property
    def library(self) -> str: ...

    @property
    def imports(self) -> str: ...

    def loading_lines(self, folder: str) -> tuple[str, ...]:
        """Give the lines that load what is in a folder; the first loads the model."""
        ...


@dataclass(frozen=True)
class ExportedForm:
    """A Hugging Face folder. `files` go beside the weights; loading runs one of them where there are any.

    `padded_parameters` are zeros that layers were filled up with.
    """

    config: dict[str, Any]
    files: dict[str, str]
    padded_parameters: int = 0

    @property
    def remote_code(self) -> bool:
        return bool(self.files)

    @property
    def needs(self) -> str:
        if self.remote_code:
            return (
                "The layers differ in size, so the folder ships `modeling_secateur.py`, which needs transformers only;"
                " read it before you trust it, or `import secateur` first and leave the flag out."
            )
        if self.padded_parameters:
            return (
                f"The layers differ in size and are filled up with {self.padded_parameters:,} zeros, so that stock"
                " transformers classes hold them: it computes the same and is no smaller than its widest layer."
            )
        return "The layers are alike, so stock transformers classes hold it."

    @property
    def library(self) -> str:
        return "transformers"

    @property
    def imports(self) -> str:
        return "from transformers import AutoModelForCausalLM, AutoTokenizer"

    def loading_lines(self, folder: str) -> tuple[str, ...]:
        """Give the lines that load model and tokenizer.

        The tokenizer needs the flag too: transformers 5 reads the model's config for it, and would stop and ask.
        """
        flag = ", trust_remote_code=True" if self.remote_code else ""  # the folder's own modelling file
        return (
            f'model = AutoModelForCausalLM.from_pretrained("{folder}"{flag})',
            f'tokenizer = AutoTokenizer.from_pretrained("{folder}"{flag})',
        )


@dataclass(frozen=True)
class GgufForm:
    """One file for llama.cpp."""

    architecture: str
    file_name: str
    remote_code: bool = field(default=False, init=False)

    @property
    def needs(self) -> str:
        return f"A GGUF file of llama.cpp's architecture `{self.architecture}`, for llama.cpp and what is built on it."

    @property
    def library(self) -> str:
        return "gguf"

    @property
    def imports(self) -> str:
        return "from llama_cpp import Llama"

    def loading_lines(self, folder: str) -> tuple[str, ...]:
        return (f'model = Llama("{folder}/{self.file_name}")',)
