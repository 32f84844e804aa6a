import math
import subprocess
import sys
from collections import Counter

import pytest

import secateur.demo.text as text_module
from secateur.demo.choices import RecordedChoices
from secateur.demo.text import DOMAINS, Domain, generate_documents


def test_same_seed_same_documents_in_another_process() -> None:
    """Hash randomisation differs between processes; the text must not."""
    program = (
        "from secateur.demo.text import generate_documents; import hashlib;"
        "print(hashlib.sha256(repr(generate_documents(50, seed=5)).encode()).hexdigest())"
    )
    digests = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(digests) == 1


def test_a_document_depends_on_seed_and_index_only() -> None:
    whole = generate_documents(30, seed=1)
    assert generate_documents(10, seed=1, first_index=20) == whole[20:]
    assert generate_documents(30, seed=2) != whole


def test_documents_do_not_repeat() -> None:
    texts = [document.text for seed in (0, 1) for document in generate_documents(2000, seed)]
    assert len(set(texts)) == len(texts)


def test_text_is_plain_ascii_of_moderate_length() -> None:
    for document in generate_documents(500, seed=4):
        assert document.text.isascii()
        assert document.text == document.text.strip()
        assert 40 <= len(document.text) <= 900


def test_every_domain_appears_as_often_as_its_weight_says() -> None:
    counts = Counter(document.domain for document in generate_documents(3000, seed=6))
    total = sum(domain.weight for domain in DOMAINS.values())
    for name, domain in DOMAINS.items():
        assert counts[name] / 3000 == pytest.approx(domain.weight / total, abs=0.03)


def test_surprisal_matches_the_frequency_of_whole_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tiny domains whose texts come often enough to be counted: frequency = exp(-surprisal)."""

    def write_coin(choices: RecordedChoices) -> str:
        return choices.pick(("heads", "tails"))

    def write_pair(choices: RecordedChoices) -> str:
        return " ".join(choices.sample("abc", 2))

    tiny = {"coin": Domain(1.0, (write_coin,)), "pair": Domain(2.0, (write_pair,))}
    monkeypatch.setattr(text_module, "DOMAINS", tiny)
    documents = generate_documents(9000, seed=0)
    counts = Counter(document.text for document in documents)
    assert len(counts) == 8
    for document in documents:
        assert counts[document.text] / 9000 == pytest.approx(math.exp(-document.surprisal), rel=0.2)


def test_negative_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="num_documents=-1"):
        generate_documents(-1, seed=0)


def test_importing_the_room_does_not_load_torch() -> None:
    program = "import sys, secateur.demo; assert not {'torch', 'transformers', 'tokenizers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
