from secateur.demo.grammar import FORMS, PLURALS, VERBS, Clause, NounPhrase
from secateur.demo.text import generate_documents

SEE = VERBS[0]


def test_forms_of_a_singular_and_a_plural_clause() -> None:
    clause = Clause(NounPhrase("old", "wolf", is_plural=False), SEE, NounPhrase("quick", "mouse", is_plural=True))
    assert str(clause) == "the old wolf sees the quick mice"
    assert {name: form(clause) for name, form in FORMS.items()} == {
        "Past": "the old wolf saw the quick mice",
        "Future": "the old wolf will see the quick mice",
        "Negative": "the old wolf does not see the quick mice",
        "Passive": "the quick mice are seen by the old wolf",
        "Past passive": "the quick mice were seen by the old wolf",
        "Question": "does the old wolf see the quick mice?",
        "Reverse": "the quick mice see the old wolf",
        "Other number": "the old wolves see the quick mice",
    }


def test_every_plural_shows() -> None:
    assert all(singular != plural for singular, plural in PLURALS.items())


def test_documents_name_each_form_and_repeat_none() -> None:
    texts = [document.text for document in generate_documents(600, seed=51) if document.domain == "grammar"]
    assert len(texts) > 20
    for text in texts:
        names = [line.partition(": ")[0] for line in text.split("\n")]
        assert names[0] == "Sentence"
        assert len(set(names)) == len(names)
        assert set(names[1:]) <= set(FORMS)
        assert all(line[-1] in ".?" for line in text.split("\n"))
