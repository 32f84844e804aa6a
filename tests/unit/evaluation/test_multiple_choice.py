"""From a folder of questions to an accuracy; what a model says is always asked of the model itself, without padding."""

import csv
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from secateur.data import Role
from secateur.errors import DataError
from secateur.evaluation.multiple_choice import ChoiceSet, Question, choose_questions, read_questions
from secateur.model.loading import load_dense
from secateur.model.shape import module_of
from secateur.model.walk import DecoderWalk
from tiny import REPRESENTATIVES

SHARED = Path(__file__).parents[4] / "shared"
MMLU = SHARED / "data" / "mmlu"
MODEL = SHARED / "models" / "stories260K"
CPU = torch.device("cpu")
LETTERS = (" A", " B", " C", " D")


def build_tokenizer(vocabulary, model, pre_tokenizer, bos="<s>"):
    tokenizer = Tokenizer(model({word: index for index, word in enumerate(vocabulary)}))
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, unk_token="<unk>")


def by_word(vocabulary):
    return models.WordLevel(vocabulary, unk_token="<unk>")


@pytest.fixture(scope="session")
def letters():
    """One token per word, the words of a question's form among them; fits the tiny decoders' 96 tokens."""
    form = ["A", "B", "C", "D", "A.", "B.", "C.", "D.", "Answer:", "questions", "about"]
    vocabulary = ["<s>", "</s>", "<unk>", *form, *(f"w{number}" for number in range(82))]
    return build_tokenizer(vocabulary, by_word, pre_tokenizers.WhitespaceSplit())


def words(rng, longest):
    return " ".join(f"w{rng.randrange(80)}" for _ in range(rng.randint(1, longest)))


def random_row(rng):
    return [words(rng, 12), *(words(rng, 4) for _ in range(4)), rng.choice("ABCD")]


@pytest.fixture
def write(tmp_path):
    """Write rows of questions as MMLU's folders have them; gives the folder."""

    def write_tables(tests, devs):
        for kind, tables in (("test", tests), ("dev", devs)):
            (tmp_path / kind).mkdir(exist_ok=True)
            for subject, rows in tables.items():
                with (tmp_path / kind / f"{subject}_{kind}.csv").open("w", newline="", encoding="utf-8") as file:
                    csv.writer(file).writerows(rows)
        return str(tmp_path)

    return write_tables


@pytest.fixture
def questions(write):
    """40 questions on each of three subjects, behind three shots."""
    rng = random.Random(0)
    subjects = ("abstract_algebra", "botany", "chess")
    tests = {subject: [random_row(rng) for _ in range(40)] for subject in subjects}
    devs = {subject: [random_row(rng) for _ in range(5)] for subject in subjects}
    return read_questions(write(tests, devs), shots=3)


@pytest.fixture
def selected(questions):
    return choose_questions(questions, Role.SELECTION, 20, seed=0)


def of_role(questions, role=Role.SELECTION):
    return [question for question in questions if question.role is role]


def build(questions, tokenizer, max_length=4_096, batch_windows=7):
    return ChoiceSet.build(questions, tokenizer, max_length, batch_windows, CPU)


@torch.no_grad()
def stream_of(walk, choice_set):
    stream = []
    for batch in choice_set.batches:
        hidden = walk.embed(batch)
        for module in range(2 * len(walk.layers)):
            hidden = walk.block(*module_of(module), hidden)
        stream.append(hidden)
    return stream


def scores_of(walk, choice_set):
    parts = [choice_set.score_batch(index, state, walk) for index, state in enumerate(stream_of(walk, choice_set))]
    return torch.stack(parts).sum(0).split(choice_set.num_choices)


def accuracy_of(walk, choice_set):
    return float(choice_set.right(walk, stream_of(walk, choice_set)).mean())


@torch.no_grad()
def whole_log_probabilities(model, tokenizer, question):
    """Log-probability of the prompt and each choice as one text, as the model itself gives it, one text at a time."""
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    sums = []
    for choice in question.choices:
        ids = torch.tensor([*start, *tokenizer(question.prompt + choice, add_special_tokens=False)["input_ids"]])
        log_probabilities = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
        sums.append(log_probabilities.gather(1, ids[1:, None]).sum())
    return torch.stack(sums)


def relative(scores):
    return scores - scores[0]


class TestReadQuestions:
    EXAMPLE = ("Two and two?", "1", "2", "3", "4", "D")
    ROW = ("One, or\ntwo?", "0.50", "NA", '"x"', "", "B")

    def test_a_prompt_has_the_original_form(self, write):
        folder = write({"high_school_logic": [self.ROW]}, {"high_school_logic": [self.EXAMPLE] * 2})
        (question,) = read_questions(folder, shots=1)
        assert question.prompt == (
            "The following are multiple choice questions (with answers) about high school logic.\n\n"
            "Two and two?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: D\n\n"
            'One, or\ntwo?\nA. 0.50\nB. NA\nC. "x"\nD. \nAnswer:'
        )
        assert (question.subject, question.choices, question.answer) == ("high_school_logic", LETTERS, 1)

    def test_shots_can_be_taken_out_again(self, write):
        folder = write({"logic": [self.ROW]}, {"logic": [self.EXAMPLE, (*self.EXAMPLE[:5], "A")]})
        prompts = {shots: read_questions(folder, shots)[0] for shots in range(3)}
        assert prompts[2].without_shots(0) == prompts[2].prompt
        assert prompts[2].without_shots(1) == prompts[1].prompt.replace("Answer: D", "Answer: A")
        assert prompts[2].without_shots(2) == prompts[0].prompt

    def test_without_shots_no_examples_are_needed(self, write, tmp_path):
        folder = write({"logic": [self.ROW]}, {})
        (tmp_path / "dev").rmdir()
        assert len(read_questions(folder, shots=0)) == 1

    def test_the_order_is_that_of_subjects_and_rows(self, write):
        rows = [(str(number), *self.ROW[1:]) for number in range(3)]
        questions = read_questions(write({"b": rows, "a": rows[::-1]}, {}), shots=0)
        assert [(each.subject, each.prompt.split("\n")[2]) for each in questions] == [
            ("a", "2"), ("a", "1"), ("a", "0"), ("b", "0"), ("b", "1"), ("b", "2"),
        ]  # fmt: skip

    def test_blank_lines_and_a_byte_order_mark_are_no_questions(self, write, tmp_path):
        folder = write({"logic": [self.EXAMPLE]}, {})
        expected = read_questions(folder, shots=0)
        file = tmp_path / "test" / "logic_test.csv"
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes() + b"\r\n\r\n")
        assert read_questions(folder, shots=0) == expected

    def refusal(self, folder, shots=1):
        with pytest.raises(DataError) as caught:
            read_questions(str(folder), shots)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    @pytest.mark.parametrize("missing", ["dev", "test"])
    def test_a_missing_folder(self, write, tmp_path, missing):
        folder = write({}, {})
        (tmp_path / missing).rmdir()
        assert f"has no folder '{missing}'; give MMLU's data folder" in self.refusal(folder)
        assert "has no folder 'test'" in self.refusal(tmp_path / "nowhere")

    def test_a_folder_without_tables(self, write):
        assert "has no file <subject>_test.csv" in self.refusal(write({}, {}))

    @pytest.mark.parametrize(
        ("row", "got"),
        [
            (ROW[:5], "got 5 fields, the last ''"),
            ((*ROW, "x" * 100), f"got 7 fields, the last '{'x' * 40}'"),
            ((*ROW[:5], "E"), "got 6 fields, the last 'E'"),
            ((*ROW[:5], "AB"), "got 6 fields, the last 'AB'"),
            ((*ROW[:5], ""), "got 6 fields, the last ''"),
        ],
    )
    def test_a_malformed_row(self, write, row, got):
        message = self.refusal(write({"logic": [self.EXAMPLE, row]}, {"logic": [self.EXAMPLE]}))
        assert "logic_test.csv, line 3: expected question, A, B, C, D and a letter of ABCD" in message
        assert got in message

    def test_a_file_in_another_encoding(self, write, tmp_path):
        folder = write({"logic": [self.EXAMPLE]}, {"logic": [self.EXAMPLE]})
        text = "Who?,1,2,3,4,A\n" * 1_000 + "Où?,1,2,3,4,A\n"
        (tmp_path / "test" / "logic_test.csv").write_bytes(text.encode("latin-1"))
        assert "logic_test.csv' is not UTF-8 text (invalid start byte at byte 15001)" in self.refusal(folder)

    @pytest.mark.parametrize("text", ['"open,1,2,3,4,A\n', "x" * 200_000 + ",1,2,3,4,A\n"], ids=["quote", "huge"])
    def test_a_file_that_is_no_table(self, write, tmp_path, text):
        folder = write({}, {"logic": [self.EXAMPLE]})
        (tmp_path / "test" / "logic_test.csv").write_text(text)
        assert "cannot be read as CSV (Error: " in self.refusal(folder)

    def test_a_subject_without_its_examples(self, write):
        assert "logic_dev.csv' cannot be read as CSV (FileNotFoundError" in self.refusal(write({"logic": []}, {}))

    def test_fewer_examples_than_shots(self, write):
        folder = write({"logic": [self.ROW]}, {"logic": [self.EXAMPLE] * 2})
        assert len(read_questions(folder, 2)) == 1
        assert "subject 'logic' has 2 examples in dev, 3 are needed" in self.refusal(folder, 3)


class TestChooseQuestions:
    def test_roles_are_disjoint_and_share_all(self, questions):
        halves = [set(of_role(questions, role)) for role in (Role.SELECTION, Role.EVALUATION)]
        assert halves[0] | halves[1] == set(questions)
        assert not halves[0] & halves[1]
        assert all(len(half) > 40 for half in halves)

    def test_the_same_question_has_one_role_whatever_its_subject_and_shots(self, write):
        rng = random.Random(0)
        rows = [random_row(rng) for _ in range(30)]
        folder = write({"a": rows, "b": rows}, {name: [random_row(rng) for _ in range(3)] for name in "ab"})
        roles = [[question.role for question in read_questions(folder, shots)] for shots in (0, 1, 3)]
        assert roles[0] == roles[1] == roles[2]
        assert roles[0][:30] == roles[0][30:]
        assert len(set(roles[0])) == 2

    @pytest.mark.parametrize("count", [1, 2, 3, 10, 20])
    def test_subjects_are_evenly_represented(self, questions, count):
        chosen = choose_questions(questions, Role.EVALUATION, count, seed=0)
        assert len(set(chosen)) == count
        assert {question.role for question in chosen} == {Role.EVALUATION}
        shares = Counter(question.subject for question in chosen)
        assert {shares[subject] for subject in ("abstract_algebra", "botany", "chess")} <= {count // 3, -(-count // 3)}

    def test_a_subject_with_few_questions_gives_all_of_them(self, questions):
        scarce = [question for question in of_role(questions) if question.subject == "chess"][:2]
        rest = [question for question in questions if question.subject != "chess"]
        shares = Counter(question.subject for question in choose_questions(rest + scarce, Role.SELECTION, 22, seed=0))
        assert shares == {"abstract_algebra": 10, "botany": 10, "chess": 2}

    def test_fewer_are_the_first_of_more(self, questions):
        more = choose_questions(questions, Role.SELECTION, 25, seed=3)
        assert choose_questions(questions, Role.SELECTION, 10, seed=3) == more[:10]

    def test_the_seed_decides_and_the_order_of_the_questions_does_not(self, questions):
        chosen = choose_questions(questions, Role.SELECTION, 20, seed=0)
        assert choose_questions(questions[::-1], Role.SELECTION, 20, seed=0) == chosen
        assert set(choose_questions(questions, Role.SELECTION, 20, seed=1)) != set(chosen)

    def test_too_few_questions(self, questions):
        available = len(of_role(questions))
        assert len(choose_questions(questions, Role.SELECTION, available, seed=0)) == available
        with pytest.raises(DataError, match=rf"selection set has {available} of 120 questions, 121 were asked for"):
            choose_questions(questions, Role.SELECTION, 121, seed=0)
        with pytest.raises(DataError, match="the calibration set has 0 of 120 questions"):
            choose_questions(questions, Role.CALIBRATION, 1, seed=0)


def asked(prompt, *choices):
    """A question of the selection set; the number that makes it one has no token of its own."""
    candidates = (Question("s", f"{number} {prompt}", choices, 0) for number in range(1000))
    return next(question for question in candidates if question.role is Role.SELECTION)


class TestAccuracy:
    @pytest.mark.parametrize("family", REPRESENTATIVES)
    def test_it_is_that_of_the_models_own_logits_question_by_question(self, prepare, tokenizer, family):
        """Choices are random words here: with random weights, one letter wins whatever the question."""
        prepared = prepare(family)
        rng = random.Random(0)
        drawn = [
            Question("s", words(rng, 20), tuple(f" w{10 + 20 * i} {words(rng, 2)}" for i in range(4)), rng.randrange(4))
            for _ in range(60)
        ]
        asked_of_it = of_role(drawn)
        said = [
            int(whole_log_probabilities(prepared.dense.model, tokenizer, question).argmax()) for question in asked_of_it
        ]
        right = sum(letter == question.answer for letter, question in zip(said, asked_of_it, strict=True))
        assert accuracy_of(prepared.walk, build(asked_of_it, tokenizer)) == right / len(asked_of_it)
        assert 0 < right < len(asked_of_it)
        assert len(set(said)) > 2

    def test_scores_of_questions_with_shots_are_the_models_own(self, prepared, selected, letters):
        for question, scores in zip(selected, scores_of(prepared.walk, build(selected, letters)), strict=True):
            expected = whole_log_probabilities(prepared.dense.model, letters, question)
            torch.testing.assert_close(relative(scores), relative(expected), atol=1e-3, rtol=0)

    @pytest.mark.parametrize("batch_windows", [1, 3, 100])
    @pytest.mark.parametrize("max_length", [200, 4_096])
    def test_batches_and_room_do_not_matter(self, prepared, selected, letters, batch_windows, max_length):
        own = build(selected, letters)
        other = build(selected, letters, max_length, batch_windows)
        assert other.num_shortened == 0
        for score, expected in zip(scores_of(prepared.walk, other), scores_of(prepared.walk, own), strict=True):
            torch.testing.assert_close(score, expected, atol=1e-4, rtol=0)
        assert other.fingerprint == own.fingerprint

    def test_padding_does_not_matter(self, prepared, selected, letters):
        together = build(selected, letters, batch_windows=100)
        (tokens,) = together.batches
        assert len(tokens) == 20
        for question, score in zip(selected, scores_of(prepared.walk, together), strict=True):
            alone = build([question], letters)
            assert not (alone.batches[0][0, 1:] == 0).any()
            torch.testing.assert_close(score, scores_of(prepared.walk, alone)[0], atol=1e-4, rtol=0)

    @pytest.mark.parametrize("letter", range(4))
    def test_a_model_that_always_says_one_letter_has_that_letters_share(self, make_dense, selected, letters, letter):
        dense = make_dense()
        with torch.no_grad():
            # The first feature drowns all others at every position, and only the letter's row of the head reads it.
            dense.model.model.embed_tokens.weight[:, 0] = 1_000
            dense.model.model.norm.weight[0] = 1
            dense.model.lm_head.weight.zero_()
            dense.model.lm_head.weight[letters.convert_tokens_to_ids("ABCD"[letter]), 0] = 1
        walk = DecoderWalk(dense.model, dense.family)
        share = sum(question.answer == letter for question in selected) / 20
        assert accuracy_of(walk, build(selected, letters)) == share

    def test_a_model_without_a_preference_counts_as_saying_the_first(self, make_dense, selected, letters):
        dense = make_dense()
        torch.nn.init.zeros_(dense.model.lm_head.weight)
        walk = DecoderWalk(dense.model, dense.family)
        assert accuracy_of(walk, build(selected, letters)) == sum(each.answer == 0 for each in selected) / 20

    def test_a_broken_model_has_no_accuracy(self, prepared, selected, letters):
        choice_set = build(selected, letters)
        stream = stream_of(prepared.walk, choice_set)
        stream[1][0] = float("nan")
        assert str(float(choice_set.right(prepared.walk, stream).mean())) == "nan"


class TestContinuations:
    @pytest.mark.parametrize(
        ("choices", "num_windows"),
        [
            ((" w10", " w11", " w12", " w13"), 1),
            ((" w10", " w11 w20"), 1),
            ((" w10 w20", " w11 w20 w30"), 2),
            ((" w10 w20 w30", " w10 w21", " w10"), 1),
            ((" w10 w20 w30", " w10 w21 w31 w41", " w12"), 2),
        ],
    )
    @pytest.mark.parametrize("bos", ["<s>", None])
    def test_scores_are_sums_over_the_tokens_of_a_choice(self, prepared, choices, num_windows, bos):
        vocabulary = ["<s>", "</s>", "<unk>", *(f"w{number}" for number in range(3, 96))]
        tokenizer = build_tokenizer(vocabulary, by_word, pre_tokenizers.WhitespaceSplit(), bos)
        question = asked("w5 w6 w7", *choices)
        choice_set = build([question], tokenizer)
        (scores,) = scores_of(prepared.walk, choice_set)
        expected = whole_log_probabilities(prepared.dense.model, tokenizer, question)
        torch.testing.assert_close(relative(scores), relative(expected), atol=1e-4, rtol=0)
        assert sum(map(len, choice_set.batches)) == num_windows

    def test_a_single_token_scores_the_same_beside_a_longer_choice(self, prepared, tokenizer):
        choice_set = build([asked("w5 w6", " w10", " w11"), asked("w5 w6", " w10", " w11 w20", " w12 w21")], tokenizer)
        single, several = scores_of(prepared.walk, choice_set)
        torch.testing.assert_close(single[0], several[0], atol=1e-5, rtol=0)
        assert several[1] < single[1]

    def test_a_blank_that_is_a_token_of_its_own_belongs_to_the_prompt(self, prepared, selected):
        """As of tokenizers that write ` A` as blank and `A`; the blank's probability is the same for all letters."""
        characters = [chr(code) for code in range(33, 123)]
        tokenizer = build_tokenizer(
            ["<s>", "<unk>", " ", "\n", *characters], by_word, pre_tokenizers.Split("", behavior="isolated")
        )
        choice_set = build(selected[:3], tokenizer)
        assert sum(map(len, choice_set.batches)) == 3
        for question, scores in zip(selected, scores_of(prepared.walk, choice_set), strict=False):
            expected = whole_log_probabilities(prepared.dense.model, tokenizer, question)
            torch.testing.assert_close(relative(scores), relative(expected), atol=1e-3, rtol=0)

    def test_merges_over_the_border_count_as_the_model_sees_them(self, prepared):
        """With `A` the colon becomes one token, with the others it does not."""
        tokenizer = build_tokenizer(
            ["<s>", "<unk>", *"0123456789 ?:ABCD", ":A"],
            lambda vocabulary: models.BPE(vocabulary, merges=[(":", "A")], unk_token="<unk>"),
            None,
        )
        question = asked("?:", "A", "B", "C", "D")
        assert len(tokenizer(question.prompt + "A")["input_ids"]) < len(tokenizer(question.prompt + "B")["input_ids"])
        (scores,) = scores_of(prepared.walk, build([question], tokenizer))
        expected = whole_log_probabilities(prepared.dense.model, tokenizer, question)
        torch.testing.assert_close(relative(scores), relative(expected), atol=1e-4, rtol=0)

    def test_choices_that_look_the_same_to_the_tokenizer_are_refused(self, tokenizer):
        """`conftest`'s tokenizer knows no letters."""
        with pytest.raises(DataError, match=r"gives two of the choices ' A', ' B' the same tokens"):
            build([asked("w5", " A", " B")], tokenizer)


class TestLongPrompts:
    def windows(self, question, tokenizer, max_length):
        choice_set = build([question], tokenizer, max_length)
        return choice_set.batches[0][0].tolist(), choice_set.num_shortened

    def ids(self, tokenizer, text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def test_the_earliest_shots_go_first(self, selected, letters):
        question = selected[0]
        whole = [[0, *self.ids(letters, question.without_shots(count))] for count in range(4)]
        for count, expected in enumerate(whole):
            assert self.windows(question, letters, len(expected)) == (expected, count > 0)
            if count < 3:
                assert self.windows(question, letters, len(expected) - 1) == (whole[count + 1], True)

    @pytest.mark.parametrize("max_length", [2, 5, 8])
    def test_then_tokens_from_the_left_but_not_bos(self, selected, letters, max_length):
        question = selected[0]
        ids = self.ids(letters, question.prompt)
        assert self.windows(question, letters, max_length) == ([0, *ids[-max_length + 1 :]], True)

    def test_the_question_itself_stays_whole_as_long_as_it_fits(self, selected, letters):
        for question in selected:
            itself = self.ids(letters, question.prompt[question.starts[-1] :])
            window, _ = self.windows(question, letters, len(itself) + 1)
            assert window == [0, *itself]

    def test_long_choices_keep_their_tokens(self, prepared, tokenizer):
        question = asked("w5 w6 w7 w8", " w10 w11 w12", " w20 w21 w22")
        rest = Question("s", "w8", question.choices, 0)
        choice_set = build([question], tokenizer, max_length=4)
        assert choice_set.batches[0].tolist() == [[0, 8, 10, 11], [0, 8, 20, 21]]
        expected = whole_log_probabilities(prepared.dense.model, tokenizer, rest)
        torch.testing.assert_close(
            relative(scores_of(prepared.walk, choice_set)[0]), relative(expected), atol=1e-4, rtol=0
        )

    def test_a_length_without_room_for_a_prompt_is_refused(self, tokenizer):
        question = asked("w5 w6 w7 w8", " w10 w11 w12", " w20 w21 w22")
        for max_length in (1, 2, 3):
            with pytest.raises(DataError, match=rf"max_length={max_length} leaves no token .* at least 4 are needed"):
                build([question], tokenizer, max_length)


class TestChoiceSet:
    def test_the_role_is_that_of_all_its_questions(self, questions, letters):
        for role in (Role.SELECTION, Role.EVALUATION):
            assert build(of_role(questions, role)[:3], letters).role is role
        with pytest.raises(ValueError, match="questions of one role are expected here, got 120 of"):
            build(questions, letters)
        with pytest.raises(ValueError, match="got 0 of"):
            build([], letters)

    def test_batches_are_windows_of_equal_length(self, selected, letters):
        choice_set = build(selected, letters, batch_windows=7)
        longest = max(len(letters(question.prompt)["input_ids"]) for question in selected) + 1
        assert [tuple(batch.shape) for batch in choice_set.batches] == [(7, longest), (7, longest), (6, longest)]
        assert sum(batch.numel() for batch in choice_set.batches) == 20 * longest

    def test_the_fingerprint_tells_sets_apart(self, selected, letters):
        answer = (selected[0].answer + 1) % 4
        other = Question(selected[0].subject, selected[0].prompt, LETTERS, answer, selected[0].starts)
        sets = [
            build(selected, letters),
            build(selected[1:], letters),
            build(selected[::-1], letters),
            build(selected, letters, max_length=30),
            build([other, *selected[1:]], letters),
        ]
        assert len({choice_set.fingerprint for choice_set in sets}) == len(sets)


@pytest.mark.shared
def test_the_real_questions_on_a_real_model():
    if not (MMLU.is_dir() and MODEL.is_dir()):
        pytest.skip("the shared questions and model are not beside this repository (../shared)")
    questions = read_questions(str(MMLU))
    assert (len(questions), len({question.subject for question in questions})) == (14_042, 57)
    assert 0.48 < len(of_role(questions)) / 14_042 < 0.52
    assert {question.prompt.count("\nAnswer:") for question in questions} == {6}

    # Letters of this model's tokenizer are one token (`▁B`) or two (`▁`, `A`).
    dense = load_dense(str(MODEL), device="cpu")
    walk = DecoderWalk(dense.model, dense.family)
    chosen = choose_questions(read_questions(str(MMLU), shots=0), Role.EVALUATION, 57, seed=0)
    assert len({question.subject for question in chosen}) == 57
    short = [question for question in chosen if len(question.prompt) < 500][:12]
    choice_set = build(short, dense.tokenizer, max_length=512)
    assert choice_set.num_shortened == 0
    expected = [whole_log_probabilities(dense.model, dense.tokenizer, question) for question in short]
    for score, own in zip(scores_of(walk, choice_set), expected, strict=True):
        torch.testing.assert_close(relative(score), relative(own), atol=1e-2, rtol=0)
    right = sum(int(own.argmax()) == question.answer for own, question in zip(expected, short, strict=True))
    assert accuracy_of(walk, choice_set) == right / len(short)
