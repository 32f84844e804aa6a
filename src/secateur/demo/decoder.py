"""The shape of the demo decoder, and how it is written to disk."""

import os
import tempfile
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from secateur.demo.tokenizer import save_tokenizer

VOCAB_SIZE = 1024
MAX_LENGTH = 512


def decoder_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Llama with 12 layers, 4 key-value heads for 8 query heads, tied embeddings: 1.43 million parameters."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=16,
        intermediate_size=256,
        tie_word_embeddings=True,
        max_position_embeddings=MAX_LENGTH,
        rms_norm_eps=1e-5,
        # 0.02 is made for widths of thousands; at 96 it starts training with layers that do next to nothing.
        initializer_range=0.05,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )


def new_decoder(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """An untrained decoder in float32."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(decoder_config(tokenizer))


def export_decoder(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write float16 weights, configuration and tokenizer; each file is replaced whole, or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    half = LlamaForCausalLM(model.config).to(torch.float16)
    half.load_state_dict(model.state_dict())
    # A document ends where the next begins, with `<s>`; `</s>` is never seen in training.
    half.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=[tokenizer.bos_token_id, tokenizer.eos_token_id]
    )
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        half.save_pretrained(temporary)
        save_tokenizer(tokenizer, Path(temporary))
        for file in sorted(Path(temporary).iterdir()):
            os.replace(file, folder / file.name)
