"""The embedded default of the package: a generator of synthetic English and a small decoder trained on it.

The decoder is a Llama of 12 layers in float16 safetensors, see `docs/demo-model.md`. Importing this room loads neither
torch nor transformers:

```python
model = AutoModelForCausalLM.from_pretrained(decoder_path())
texts = [document.text for document in generate_documents(num_documents=100, seed=7)]
```
"""

from pathlib import Path

from secateur.demo.text import Document, generate_documents

__all__ = ["Document", "decoder_path", "generate_documents"]


def decoder_path() -> Path:
    """The folder of the shipped decoder: weights, configuration, tokenizer and training log."""
    return Path(__file__).parent / "decoder"
