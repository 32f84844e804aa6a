"""Read an exported GGUF file as a stranger would, and say what is in it. Run as a script, never imported.

    python -I fresh_gguf_check.py FILE PROBE.safetensors

`PROBE` holds `tokens` [windows, length] and the `logits` measured for them. Where llama-cpp-python is installed, the
file is run by llama.cpp; it is always read with the `gguf` package. Prints one line of JSON.
"""

import hashlib
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from safetensors.numpy import load_file


def run_in_llama_cpp(path: str, tokens: np.ndarray, logits: np.ndarray) -> dict[str, object]:
    from llama_cpp import Llama  # noqa: PLC0415 - it may not be there

    # A cache in float32 and no fused attention: what is compared is the file, not what llama.cpp rounds.
    model = Llama(
        path,
        n_ctx=tokens.shape[1] + 8,
        n_batch=tokens.shape[1],
        logits_all=True,
        type_k=0,
        type_v=0,
        flash_attn=False,
        verbose=False,
    )
    difference, divergence = 0.0, []
    for window, expected in zip(tokens, logits, strict=True):
        model.reset()
        model.eval(window.tolist())
        found = np.array(model.scores[: len(window)], dtype=np.float64)
        difference = max(difference, float(np.abs(found - expected).max()))
        log_p, log_q = (x - np.logaddexp.reduce(x, axis=-1, keepdims=True) for x in (expected.astype(float), found))
        divergence.append(float((np.exp(log_p) * (log_p - log_q)).sum(-1).mean()))
    return {"max_logit_difference": difference, "kl": float(np.mean(divergence))}


def main(path: str, probe_path: str) -> None:
    reader = GGUFReader(path)
    probe = load_file(probe_path)
    seen: dict[str, object] = {
        "secateur_imported": "secateur" in sys.modules,
        "architecture": bytes(reader.fields["general.architecture"].parts[-1]).decode(),
        "digests": {each.name: hashlib.sha256(each.data.tobytes()).hexdigest() for each in reader.tensors},
        "num_parameters": int(sum(each.n_elements for each in reader.tensors)),
        "bytes": Path(path).stat().st_size,
        "reader": "gguf",
    }
    if importlib.util.find_spec("llama_cpp"):
        seen |= {"reader": "llama.cpp"} | run_in_llama_cpp(path, probe["tokens"], probe["logits"])
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
