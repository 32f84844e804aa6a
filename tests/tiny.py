"""Which families tests of one part run on; the contract of tests/contracts/test_families.py runs on all."""

# Plain; q/k norms, norms behind blocks that add one to their weight, sliding windows, capped logits; a parallel
# residual with one fused projection and biases everywhere; transposed and fused weights, no gate, learned positions.
REPRESENTATIVES = ("llama", "gemma3_text", "gpt_neox", "gpt2")
# One residual form without anything behind the projections: for tests that plant something there.
PLAIN = ("llama", "qwen2", "qwen3")
