"""From text to token sets: what is a document, which set it falls into, and how it becomes windows."""

import copy
import json
import random

import pytest

from secateur.data import (
    SPLIT,
    Role,
    TokenSet,
    assign_documents,
    assign_group_documents,
    build_group_sets,
    build_token_sets,
    perplexity_windows,
    read_documents,
    read_rows,
)
from secateur.errors import DataError

NO_NAMED = {role: [] for role in Role}


def words(*numbers):
    return " ".join(f"w{number}" for number in numbers)


def random_documents(count, length=20, seed=0):
    rng = random.Random(seed)
    return [words(*(rng.randrange(3, 96) for _ in range(length))) for _ in range(count)]


@pytest.fixture
def write(tmp_path):
    """Write documents into a .jsonl file; gives its path."""

    def write_file(documents, name="text.jsonl", field="text"):
        path = tmp_path / name
        path.write_text("".join(json.dumps({field: document}) + "\n" for document in documents), encoding="utf-8")
        return str(path)

    return write_file


class TestReadDocuments:
    def read_text(self, tmp_path, text, name="text.txt"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return read_documents(str(tmp_path / name))

    def test_end_of_text_marks_come_first(self, tmp_path):
        assert self.read_text(tmp_path, "a\n\nb<|endoftext|>c\nd<|endoftext|>\n") == ["a\n\nb", "c\nd"]

    def test_then_blank_lines(self, tmp_path):
        assert self.read_text(tmp_path, "a\nb\n\nc\n \t\nd\n\n\n\ne\n") == ["a\nb", "c", "d", "e"]

    def test_then_line_ends(self, tmp_path):
        assert self.read_text(tmp_path, "a\nb\r\nc") == ["a", "b", "c"]

    def test_json_strings_may_hold_line_separators(self, tmp_path):
        line = json.dumps({"text": "one\u2028two\u0085three"}, ensure_ascii=False)
        assert self.read_text(tmp_path, f"{line}\n\n{line}\n", "text.jsonl") == ["one\u2028two\u0085three"] * 2

    def test_another_field_may_be_named(self, write):
        source = write(["a", "b"], field="content")
        assert read_documents(source, "content") == ["a", "b"]
        with pytest.raises(DataError, match=r"line 1: expected a JSON object with a text in 'text'.*data.text_field"):
            read_documents(source)

    @pytest.mark.parametrize(
        "bad", ["{", "[]", '"text"', "3", "null", '{"text": 3}', '{"text": null}', '{"other": "x"}']
    )
    def test_a_bad_line_is_named(self, tmp_path, bad):
        with pytest.raises(DataError, match=r"text.jsonl, line 3: "):
            self.read_text(tmp_path, f'{{"text": "a"}}\n\n{bad}\n', "text.jsonl")

    def test_a_line_nested_without_end_is_named(self, tmp_path):
        with pytest.raises(DataError, match="line 1"):
            self.read_text(tmp_path, "[" * 100_000, "text.jsonl")

    def test_what_is_not_utf8_is_refused_with_its_place(self, tmp_path):
        (tmp_path / "text.txt").write_bytes(b"caf\xe9 au lait")
        with pytest.raises(DataError, match=r"is not UTF-8 text \(invalid continuation byte at byte 3\)"):
            read_documents(str(tmp_path / "text.txt"))

    @pytest.mark.parametrize("name", ["missing.txt", "missing.jsonl"])
    def test_a_missing_file_is_refused(self, tmp_path, name):
        with pytest.raises(DataError, match="does not exist"):
            read_documents(str(tmp_path / name))

    def test_a_folder_is_refused(self, tmp_path):
        with pytest.raises(DataError, match="is not a file"):
            read_documents(str(tmp_path))

    @pytest.mark.parametrize("text", ["", "  \n\n \t\n", "<|endoftext|><|endoftext|>"])
    def test_a_file_without_text_is_refused(self, tmp_path, text):
        with pytest.raises(DataError, match="has no text in it"):
            self.read_text(tmp_path, text)


class TestAssignDocuments:
    def test_one_source_is_shared_by_hash_in_the_stated_shares(self, write):
        assigned = assign_documents([write(random_documents(2_000))], NO_NAMED)
        assert sum(map(len, assigned.values())) == 2_000
        for role, share in SPLIT.items():
            assert len(assigned[role]) / 2_000 == pytest.approx(share, abs=0.04)

    def test_no_document_stands_in_two_sets_whatever_is_doubled_or_named(self, write):
        documents = random_documents(300)
        one = write(documents + documents[:100], "one.jsonl")
        two = write(documents[50:250], "two.jsonl")
        for named in (
            {},
            {Role.CALIBRATION: [two]},
            {Role.SELECTION: [two]},
            {Role.EVALUATION: [two, one]},
            {Role.CALIBRATION: [one], Role.EVALUATION: [two]},
            {Role.CALIBRATION: [two], Role.SELECTION: [one, two], Role.EVALUATION: [one]},
        ):
            assigned = assign_documents([one, two], NO_NAMED | named)
            everything = [document for role in Role for document in assigned[role]]
            assert len(everything) == len(set(everything))

    def test_a_named_source_serves_its_role_alone(self, write):
        shared, own = random_documents(100), random_documents(20, seed=1)
        assigned = assign_documents(
            [write(shared, "shared.jsonl")], NO_NAMED | {Role.SELECTION: [write(own, "own.jsonl")]}
        )
        assert set(assigned[Role.SELECTION]) == set(own)
        assert set(assigned[Role.CALIBRATION]) | set(assigned[Role.EVALUATION]) < set(shared)

    def test_evaluation_gives_way(self, write):
        documents = random_documents(10)
        named = {
            Role.CALIBRATION: [write(documents[:4], "calibration.jsonl")],
            Role.SELECTION: [write(documents[2:6], "selection.jsonl")],
            Role.EVALUATION: [write(documents, "evaluation.jsonl")],
        }
        assigned = assign_documents([], named)
        assert [len(assigned[role]) for role in Role] == [4, 2, 4]

    def test_a_document_goes_to_the_same_set_from_whatever_file(self, write):
        documents = random_documents(100)
        whole = assign_documents([write(documents)], NO_NAMED)
        parts = assign_documents([write(documents[70:], "b.jsonl"), write(documents[:70], "a.jsonl")], NO_NAMED)
        assert all(set(whole[role]) == set(parts[role]) for role in Role)


class TestBuildTokenSets:
    def build(self, tokenizer, documents_of, length=8, num_tokens=10_000):
        return build_token_sets(documents_of, tokenizer, length, dict.fromkeys(Role, num_tokens))

    def test_documents_follow_each_other_each_with_its_bos(self, tokenizer):
        documents = random_documents(10, length=7)
        tokens = self.build(tokenizer, {Role.CALIBRATION: documents})[Role.CALIBRATION].tokens
        assert tokens.shape == (10, 8)
        assert tokens[:, 0].tolist() == [tokenizer.bos_token_id] * 10
        rows = {tuple(row[1:]) for row in tokens.tolist()}
        assert rows == {tuple(tokenizer(document)["input_ids"]) for document in documents}

    def test_without_a_bos_each_begins_with_the_eos(self, tokenizer):
        import copy

        other = copy.deepcopy(tokenizer)
        other.bos_token = None
        tokens = self.build(other, {Role.CALIBRATION: random_documents(10, length=7)})[Role.CALIBRATION].tokens
        assert tokens[:, 0].tolist() == [other.eos_token_id] * 10

    def test_the_order_of_files_and_documents_does_not_matter(self, tokenizer, write):
        documents = random_documents(200)
        one = write(documents[:100], "one.jsonl")
        two = write(documents[100:], "two.jsonl")
        backwards = write(documents[::-1], "backwards.jsonl")
        sets = [
            self.build(tokenizer, assign_documents(sources, NO_NAMED))
            for sources in ([one, two], [two, one], [backwards])
        ]
        for role in Role:
            assert len({each[role].fingerprint for each in sets}) == 1

    def test_a_set_has_no_more_tokens_than_asked_for(self, tokenizer):
        sets = self.build(tokenizer, {Role.SELECTION: random_documents(100)}, num_tokens=100)
        assert sets[Role.SELECTION].num_tokens == 96
        assert sets[Role.SELECTION].role is Role.SELECTION

    def test_too_little_text_says_how_much_is_needed(self, tokenizer):
        with pytest.raises(
            DataError, match=r"the evaluation set has 21 tokens, at least 32 are needed \(4 windows of 8\)"
        ):
            self.build(tokenizer, {Role.EVALUATION: random_documents(1)})

    def test_a_lone_surrogate_is_refused_or_read_but_breaks_nothing(self, tokenizer, tmp_path):
        """JSON can hold half a character, which no tokenizer takes."""
        path = tmp_path / "text.jsonl"
        path.write_text("".join(json.dumps({"text": f"\ud800 {text}"}) + "\n" for text in random_documents(20)))
        try:
            sets = self.build(tokenizer, {Role.CALIBRATION: read_documents(str(path))})
        except DataError:
            return
        assert sets[Role.CALIBRATION].num_tokens > 0


class TestGroups:
    def test_a_group_shares_no_document_between_sets_and_none_with_another_role(self, write):
        """One group is also the text of the run, the other holds part of it and its own."""
        shared, own = random_documents(300), random_documents(200, seed=1)
        text = write(shared)
        assigned = assign_documents([text], NO_NAMED)
        groups = assign_group_documents({"same": text, "half": write(shared[:100] + own, "half.jsonl")}, assigned)
        for of_group in groups.values():
            assert set(of_group) == {Role.SELECTION, Role.EVALUATION}
            assert all(of_group.values())
        for role in Role:
            elsewhere = {
                d for each in (assigned, *groups.values()) for other in each if other is not role for d in each[other]
            }
            for each in (assigned, *groups.values()):
                assert not elsewhere & set(each.get(role, []))
        assert groups["same"][Role.EVALUATION] == assigned[Role.EVALUATION]

    def test_what_the_run_calibrates_on_by_name_is_in_no_group(self, write):
        named = write(random_documents(100), "named.jsonl")
        rest = write(random_documents(100, seed=2), "rest.jsonl")
        assigned = assign_documents([rest], NO_NAMED | {Role.CALIBRATION: [named]})
        groups = assign_group_documents({"named": named}, assigned)
        assert groups == {"named": {Role.SELECTION: [], Role.EVALUATION: []}}

    def test_each_set_has_its_own_number_of_tokens(self, tokenizer, write):
        documents = assign_group_documents({"a": write(random_documents(300))}, {})
        sets = build_group_sets(documents, tokenizer, 8, {Role.SELECTION: 80, Role.EVALUATION: 160})
        assert {role: tokens.num_tokens for role, tokens in sets["a"].items()} == {
            Role.SELECTION: 80,
            Role.EVALUATION: 160,
        }
        assert all(tokens.role is role for role, tokens in sets["a"].items())

    def test_a_group_with_too_little_text_is_named(self, tokenizer):
        documents = {"tiny": {Role.SELECTION: random_documents(1), Role.EVALUATION: []}}
        with pytest.raises(DataError, match=r"group 'tiny': the selection set has 21 tokens"):
            build_group_sets(documents, tokenizer, 8, {Role.SELECTION: 80, Role.EVALUATION: 80})


class TestPerplexityWindows:
    def test_documents_are_joined_and_tokenised_once_after_one_bos(self, tokenizer):
        documents = [words(*range(3, 13)), words(*range(13, 23))]
        windows = perplexity_windows(documents, tokenizer, 4)
        assert windows.role is Role.EVALUATION
        assert windows.tokens.flatten().tolist() == [tokenizer.bos_token_id, *range(3, 22)]

    def test_the_remainder_is_dropped(self, tokenizer):
        assert perplexity_windows([words(*range(3, 14))], tokenizer, 5).tokens.tolist() == [
            [tokenizer.bos_token_id, 3, 4, 5, 6],
            [7, 8, 9, 10, 11],
        ]

    def test_without_a_bos_nothing_is_put_before(self, tokenizer):
        import copy

        other = copy.deepcopy(tokenizer)
        other.bos_token = None
        assert perplexity_windows([words(*range(3, 11))], other, 4).tokens.flatten().tolist() == list(range(3, 11))

    def test_a_blank_line_is_what_joins(self):
        """Seen by a tokenizer with a token for every byte."""
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        alphabet = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        raw = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        ids = (
            perplexity_windows(["ab", "c"], PreTrainedTokenizerFast(tokenizer_object=raw), 5).tokens.flatten().tolist()
        )
        assert ids == [alphabet[character] for character in ("a", "b", "Ċ", "Ċ", "c")]

    @pytest.mark.parametrize(("max_tokens", "windows"), [(4, 1), (7, 1), (8, 2), (1_000, 5), (None, 5)])
    def test_of_a_long_text_the_first_windows_may_be_enough(self, tokenizer, max_tokens, windows):
        whole = perplexity_windows([words(*range(3, 23))], tokenizer, 4)
        some = perplexity_windows([words(*range(3, 23))], tokenizer, 4, max_tokens=max_tokens)
        assert some.tokens.tolist() == whole.tokens[:windows].tolist()

    def test_what_ranks_candidates_is_a_selection_set(self, tokenizer):
        assert perplexity_windows([words(*range(3, 13))], tokenizer, 4, Role.SELECTION).role is Role.SELECTION

    def test_less_than_one_window_is_refused(self, tokenizer):
        with pytest.raises(DataError, match=r"the text has 4 tokens, at least 8 are needed \(one window\)"):
            perplexity_windows([words(3, 4, 5)], tokenizer, 8)


class TestTokenSet:
    def test_only_the_role_it_has_is_accepted(self, make_tokens):
        for role in Role:
            tokens = make_tokens(role)
            assert tokens.expect(role) is tokens
            for other in set(Role) - {role}:
                with pytest.raises(ValueError, match=f"a {other} set is expected here, got the {role} set"):
                    tokens.expect(other)

    def test_counts_and_fingerprint(self, make_tokens):
        tokens = make_tokens(num_windows=5, length=7)
        assert (tokens.num_tokens, tokens.sequence_length) == (35, 7)
        changed = tokens.tokens.clone()
        changed[4, 6] += 1
        assert TokenSet(tokens.role, changed).fingerprint != tokens.fingerprint
        assert TokenSet(tokens.role, tokens.tokens.int()).fingerprint == tokens.fingerprint


TEMPLATE = "{% for m in messages %}{{ '<s>' if m['role'] == 'user' else '</s>' }} {{ m['content'] }} {% endfor %}"


class TestConversations:
    @pytest.fixture
    def chat_tokenizer(self, tokenizer):
        chat = copy.deepcopy(tokenizer)
        chat.chat_template = TEMPLATE
        return chat

    @pytest.fixture
    def chats(self, tmp_path):
        lines = [
            {"messages": [{"role": "user", "content": f"w{n} w4"}, {"role": "assistant", "content": "w5 w6 w7"}]}
            for n in range(8, 90)
        ]
        (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, lines)))
        return str(tmp_path / "chats.jsonl")

    def test_are_written_by_the_tokenizers_own_template(self, chats, chat_tokenizer):
        documents = read_documents(chats)
        assert len(documents) == 82
        sets = build_token_sets({Role.SELECTION: documents}, chat_tokenizer, 8, {Role.SELECTION: 80})
        tokens = sets[Role.SELECTION].tokens.flatten().tolist()
        # Seven tokens a chat: who speaks and what, and no beginning but the template's.
        assert tokens[0] == tokens[7] == 0
        assert tokens[2:7] == [4, 1, 5, 6, 7]

    def test_in_the_words_of_sharegpt_are_the_same(self, chats, tmp_path):
        spoken = [{"from": "human", "value": "w8 w4"}, {"from": "gpt", "value": "w5 w6 w7"}]
        (tmp_path / "shared.jsonl").write_text(json.dumps({"conversations": spoken}))
        assert read_documents(str(tmp_path / "shared.jsonl")) == read_documents(chats)[:1]

    def test_may_stand_beside_texts_and_are_split_by_their_hash(self, chats):
        parts = assign_documents([chats], NO_NAMED)
        assert sum(map(len, parts.values())) == 82
        assert all(parts.values())
        assert not set(parts[Role.CALIBRATION]) & set(parts[Role.EVALUATION])

    def test_with_half_a_character_are_readable(self, tmp_path, chat_tokenizer):
        path = tmp_path / "half.jsonl"
        path.write_text('{"messages": [{"role": "user", "content": "w8 \\ud83d"}]}')
        (document,) = read_documents(str(path))
        assert document.written_by(chat_tokenizer)

    def test_need_a_template(self, chats, tokenizer):
        with pytest.raises(DataError, match="tokenizer has no chat template"):
            build_token_sets({Role.SELECTION: read_documents(chats)}, tokenizer, 8, {Role.SELECTION: 80})

    def test_that_the_template_refuses_are_named(self, chats, chat_tokenizer):
        chat_tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
        with pytest.raises(DataError, match="refuses a conversation: roles must alternate"):
            build_token_sets({Role.SELECTION: read_documents(chats)}, chat_tokenizer, 8, {Role.SELECTION: 80})

    @pytest.mark.parametrize("messages", ['[{"role": "user"}]', "[3]", '"hello"'])
    def test_of_another_form_are_refused_with_their_line(self, tmp_path, messages):
        (tmp_path / "bad.jsonl").write_text(f'{{"messages": {messages}}}')
        with pytest.raises(DataError, match=r"bad.jsonl, line 1: expected a JSON object with a text"):
            read_documents(str(tmp_path / "bad.jsonl"))

    def test_are_evaluated_one_after_the_other(self, chats, chat_tokenizer):
        windows = perplexity_windows(iter(read_rows(chats)), chat_tokenizer, 7, max_tokens=70)
        assert (windows.tokens[:, 0] == 0).all()
