"""Which families tests of one part run on, and a tokenizer as llama.cpp knows it."""

from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

# The contract of tests/contracts/test_family_contract.py runs on all.
# Plain; q/k norms, norms behind blocks that add one to their weight, sliding windows, capped logits; a parallel
# residual with one fused projection and biases everywhere; transposed and fused weights, no gate, learned positions.
REPRESENTATIVES = ("llama", "gemma3_text", "gpt_neox", "gpt2")
# One residual form without anything behind the projections: for tests that plant something there.
PLAIN = ("llama", "qwen2", "qwen3")

WORDS = ["▁", "h", "e", "he", "▁he", "l", "o", "lo", "▁helo"]
MERGES = [("h", "e"), ("▁", "he"), ("l", "o"), ("▁he", "lo")]


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama's: a blank before the text, bytes for what is not in the vocabulary."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, MERGES, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
