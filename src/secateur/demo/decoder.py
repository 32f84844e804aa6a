"""The shape of the demo decoder, and how it is written to disk."""

import tempfile
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from secateur.demo.tokenizer import save_tokenizer

VOCAB_SIZE = 1024
MAX_LENGTH = 512


def decoder_config(tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
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
        # With the usual base of 10,000 half of the 8 frequencies of a head turn too slowly to tell positions of a
        # document of 80 tokens apart; with 100 all do, and the slowest still needs 353 tokens for a turn.
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )


def new_decoder(tokenizer: PreTrainedTokenizerBase, seed: int) -> LlamaForCausalLM:
    """An untrained decoder in float32.

    With the library's initialization (all matrices alike) the outputs of 12 layers drown the token embedding in the
    residual stream. So embeddings are large, layers write nothing at first, and the small last normalization keeps
    the tied logits small. (Brought in together with a lower learning rate; not measured alone.)
    """
    torch.manual_seed(seed)
    model = LlamaForCausalLM(decoder_config(tokenizer))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_tokens" in name:
                parameter.normal_(std=0.5)
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
            elif parameter.ndim == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
        model.model.norm.weight.fill_(0.1)
    return model


def export_decoder(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write float16 weights, configuration and tokenizer; each file is replaced whole, or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    half = LlamaForCausalLM(model.config).half()
    half.load_state_dict(model.state_dict())
    # A document ends where the next begins, with `<s>`; `</s>` is never seen in training.
    half.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=[tokenizer.bos_token_id, tokenizer.eos_token_id]
    )
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        half.save_pretrained(temporary)
        save_tokenizer(tokenizer, Path(temporary))
        for file in sorted(Path(temporary).iterdir()):
            # safetensors makes its file readable for its owner only.
            file.chmod(0o644)
            file.replace(folder / file.name)
