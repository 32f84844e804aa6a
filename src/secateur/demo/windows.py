"""Training windows: the endless stream of documents, each after its `<s>`, cut into pieces of equal length."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from secateur.demo.text import generate_document


@dataclass
class WindowStream:
    """Where in the stream training stands. The two last fields are all that a checkpoint needs.

    A document cut by the end of a window goes on in the next one, so that the decoder also learns to read text
    without its beginning, as evaluation on fixed windows has it.
    """

    tokenizer: PreTrainedTokenizerBase
    seed: int
    next_document: int = 0
    leftover: list[int] = field(default_factory=list)

    def next_windows(self, num_windows: int, window_length: int) -> Int[Tensor, "{num_windows} {window_length}+1"]:
        """Tokens to predict that were never handed out before, after one token of context that was.

        Neighbouring windows share one token, the last of the one and the first of the other: inputs are a window
        without its last token, labels without its first, and every token of the stream is predicted once.
        """
        num_tokens = num_windows * window_length
        while len(self.leftover) <= num_tokens:
            self.leftover += self.tokenizer(generate_document(self.seed, self.next_document).text)["input_ids"]
            self.next_document += 1
        taken = torch.tensor(self.leftover[: num_tokens + 1])
        self.leftover = self.leftover[num_tokens:]
        return taken.unfold(0, window_length + 1, window_length)
