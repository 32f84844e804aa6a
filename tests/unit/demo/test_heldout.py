import math

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from secateur.demo import decoder_path, generate_documents
from secateur.demo.decoder import new_decoder
from secateur.demo.heldout import as_table, document_losses, heldout_loss


def test_batched_losses_equal_the_loss_of_each_document_alone() -> None:
    model = LlamaForCausalLM.from_pretrained(decoder_path(), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(decoder_path())
    documents = generate_documents(5, seed=71)
    for document, (num_tokens, loss) in zip(documents, document_losses(model, tokenizer, documents), strict=True):
        ids = torch.tensor([tokenizer(document.text)["input_ids"] + [tokenizer.bos_token_id]])
        with torch.inference_mode():
            mean_loss = model(input_ids=ids, labels=ids).loss
        assert num_tokens == ids.shape[1] - 1
        assert loss == pytest.approx(mean_loss.item() * num_tokens, rel=1e-4)


def test_sums_over_domains_make_up_the_whole() -> None:
    tokenizer = AutoTokenizer.from_pretrained(decoder_path())
    documents = generate_documents(40, seed=72)
    sums = heldout_loss(new_decoder(tokenizer, seed=0), tokenizer, documents)
    whole = sums.pop("all")
    assert whole.num_documents == 40
    assert sum(row.num_tokens for row in sums.values()) == whole.num_tokens
    assert sum(row.loss_nats for row in sums.values()) == pytest.approx(whole.loss_nats)
    assert whole.surprisal_nats == pytest.approx(sum(document.surprisal for document in documents))
    assert whole.loss == pytest.approx(math.log(1024), rel=0.1), "an untrained decoder guesses"
    assert "| all | 40 |" in as_table({"all": whole}, 1024)


def test_no_documents_is_refused() -> None:
    tokenizer = AutoTokenizer.from_pretrained(decoder_path())
    with pytest.raises(ValueError, match="at least one document"):
        heldout_loss(new_decoder(tokenizer, seed=0), tokenizer, [])
