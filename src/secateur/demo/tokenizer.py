"""The demo decoder's tokenizer: a small byte-level BPE that can write any UTF-8 text."""

from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from secateur.demo.text import generate_documents

BOS, EOS = "<s>", "</s>"
# A word or a single digit takes the blank before it; digits never merge, so that arithmetic works on digits.
PIECES = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s"


def train_tokenizer(vocab_size: int, num_documents: int, seed: int, max_length: int) -> PreTrainedTokenizerFast:
    """Learn merges from generated documents.

    All 256 bytes are in the vocabulary, so that every UTF-8 text survives encoding and decoding. As in Llama, `<s>` is
    put before a text and nothing after it.

    Args:
        vocab_size: Entries, the two special tokens and the 256 bytes included.
        max_length: Longest sequence in tokens that the decoder takes; stored for the tokenizer's warning.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((document.text for document in generate_documents(num_documents, seed)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, which `AutoTokenizer.from_pretrained` reads."""
    tokenizer.save_pretrained(folder)
