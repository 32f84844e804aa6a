"""Load an exported folder as a stranger would, and say what it does. Run as a script, never imported.

    python -I fresh_check.py FOLDER PROBE.safetensors remote-code|plain float32|auto

`PROBE` holds `tokens` [windows, length], the `logits` measured for them, and `sentence`, the ids of `SENTENCE`.
Prints one line of JSON.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

NUM_NEW_TOKENS = 16
SENTENCE = "The quick brown fox jumps over 13 lazy dogs, naïvely."


def main(folder: str, probe_path: str, remote_code: bool, dtype: str) -> None:
    torch.manual_seed(0)
    probe = load_file(probe_path)
    # The folder is the one that this run has just written, modelling file included.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=remote_code).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=remote_code)
    with torch.no_grad():
        logits = model(input_ids=probe["tokens"], use_cache=False).logits
        prompt = probe["tokens"][:1, :8]
        settings = {
            "max_new_tokens": NUM_NEW_TOKENS,
            "min_new_tokens": NUM_NEW_TOKENS,
            "do_sample": False,
            "pad_token_id": 0,
        }
        attention_mask = torch.ones_like(prompt)
        cached = model.generate(prompt, attention_mask=attention_mask, use_cache=True, **settings)
        uncached = model.generate(prompt, attention_mask=attention_mask, use_cache=False, **settings)
    print(
        json.dumps(
            {
                "secateur_imported": "secateur" in sys.modules,
                "tokenizes_alike": tokenizer(SENTENCE)["input_ids"] == probe["sentence"].tolist(),
                "class_name": type(model).__name__,
                "num_parameters": sum(p.numel() for p in model.parameters()),
                "max_logit_difference": float((logits.float() - probe["logits"]).abs().max()),
                "generates_alike_with_and_without_cache": bool(torch.equal(cached, uncached)),
                "bytes": sum(path.stat().st_size for path in Path(folder).glob("*.safetensors")),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3] == "remote-code", sys.argv[4])
