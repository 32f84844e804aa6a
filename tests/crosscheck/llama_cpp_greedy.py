"""Continue a prompt with llama.cpp, the most likely token each time. Run as a script where llama-cpp-python is.

    python llama_cpp_greedy.py FILE PROMPT NUMBER

`PROMPT` is a JSON list of tokens; prints one of the `NUMBER` tokens that follow.
"""

import json
import sys
from itertools import islice

from llama_cpp import Llama


def main(path: str, prompt: str, number: str) -> None:
    # A cache in float32 and no fused attention: what is compared is the file, not what llama.cpp rounds.
    model = Llama(path, n_ctx=64, type_k=0, type_v=0, flash_attn=False, verbose=False)
    tokens = model.generate(json.loads(prompt), temp=0.0, repeat_penalty=1.0)
    print(json.dumps(list(islice(tokens, int(number)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
