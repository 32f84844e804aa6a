"""Multiple-choice accuracy by likelihood, on questions in MMLU's format.

Nothing is generated: the answer of a model is the choice to which it gives the highest probability as continuation of
the prompt. So a model that has lost the habit of answering, but not the knowledge, is not counted as wrong.
"""

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import takewhile
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from secateur.data import Role
from secateur.errors import DataError
from secateur.model.loading import DenseModel
from secateur.model.walk import DecoderWalk
from secateur.schema import digest

LETTERS = "ABCD"
# Any token will do: what stands behind a position never reaches it. Every vocabulary has this one.
PADDING = 0
# The context of a question, where the model has room for more.
QUESTION_TOKENS = 2_048


@dataclass(frozen=True)
class Question:
    """A prompt, and the continuations (` A`, ` B`, ...) of which number `answer` is right.

    `starts` are the characters of the prompt at which its parts begin: every worked example (shot), and last the
    question itself. What comes before the first is the header.
    """

    subject: str
    prompt: str
    choices: tuple[str, ...]
    answer: int
    starts: tuple[int, ...] = (0,)

    @property
    def role(self) -> Role:
        """Selection or evaluation, half each, by a hash of the question itself.

        Subject and shots do not count, so the same question can never stand in both sets, wherever it comes from.
        """
        return Role.SELECTION if digest(self.prompt[self.starts[-1] :])[0] < "8" else Role.EVALUATION

    def without_shots(self, count: int) -> str:
        """Give the prompt without its `count` earliest shots."""
        return self.prompt[: self.starts[0]] + self.prompt[self.starts[count] :]


def read_questions(folder: str, shots: int = 5) -> list[Question]:
    """Read the test questions of every subject, each behind the first `shots` examples of its subject.

    `folder` holds `test/<subject>_test.csv` and, if there are shots, `dev/<subject>_dev.csv`: rows of question, four
    options and the letter of the answer, without a header. Subjects come in alphabetical order, questions as in their
    file.

    Raises:
        DataError: A folder or file is missing or is not such a table, or a subject has fewer examples than `shots`.

    Source:
        Prompts are those of MMLU's own `evaluate.py` (arXiv 2009.03300, github.com/hendrycks/test), but for the second
        blank that it has after `about`, by accident. It reads options as numbers where a column has no others; here
        they stay as written.
    """
    for needed in ("test", "dev") if shots else ("test",):
        if not (Path(folder) / needed).is_dir():
            raise DataError(
                f"{folder!r} has no folder {needed!r}; give MMLU's data folder, with dev/<subject>_dev.csv and "
                "test/<subject>_test.csv"
            )
    files = sorted((Path(folder) / "test").glob("*_test.csv"))
    if not files:
        raise DataError(f"{str(Path(folder) / 'test')!r} has no file <subject>_test.csv; give MMLU's data folder")
    return [question for file in files for question in _read_subject(file, shots)]


def choose_questions(questions: Sequence[Question], role: Role, count: int, seed: int) -> list[Question]:
    """Choose `count` questions of a role, as evenly spread over the subjects as their numbers allow.

    With the same seed, fewer questions are the first of more.

    Raises:
        DataError: The role has fewer questions.
    """
    of_subject: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        if question.role is role:
            of_subject[question.subject].append(question)
    available = sum(map(len, of_subject.values()))
    if available < count:
        raise DataError(
            f"the {role} set has {available} of {len(questions)} questions, {count} were asked for; "
            "ask for fewer or give more"
        )
    # Every subject gives its first question before any gives its second; which subjects are first is drawn too.
    ranked = [
        (rank, digest([seed, subject]), question)
        for subject, own in of_subject.items()
        for rank, question in enumerate(sorted(own, key=lambda question: digest([seed, question.prompt])))
    ]
    return [question for _, _, question in sorted(ranked, key=lambda entry: entry[:2])[:count]]


@dataclass(frozen=True)
class ChoiceSet:
    """Questions as windows of equal length, with what is to be read off them.

    A window is a prompt with one of its choices, without the last token, which predicts nothing. It serves every choice
    whose tokens but the last it begins with: where all choices are single tokens, one window serves them all.

    Windows are padded on the right, and the mask of a causal decoder hides that from all that comes before.
    """

    role: Role
    batches: tuple[Int[Tensor, "_ length"], ...]
    # Per batch, one row per token of a choice: window, position it is predicted from, token, and number of the choice,
    # counted over the choices of all questions.
    predictions: tuple[Int[Tensor, "_ 4"], ...]
    num_choices: tuple[int, ...]
    answers: tuple[int, ...]
    # Questions whose prompt lost something to the length of the windows.
    num_shortened: int
    fingerprint: str

    @classmethod
    def build(
        cls,
        questions: Sequence[Question],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        batch_windows: int,
        device: torch.device,
    ) -> "ChoiceSet":
        """Tokenise questions of one role.

        A prompt that is too long loses its earliest shots, and if that is not enough tokens from the left, header
        first. The tokenizer's BOS, if it has one, stays in front.

        Raises:
            DataError: The tokenizer gives two choices the same tokens, or `max_length` leaves nothing of a prompt.
        """
        roles = {question.role for question in questions}
        if len(roles) != 1:
            raise ValueError(f"questions of one role are expected here, got {len(questions)} of {sorted(roles)}")
        windows: list[list[int]] = []
        predictions: list[tuple[int, int, int, int]] = []
        number = num_shortened = 0
        for question in questions:
            sequences, common, shortened = _fit(question, tokenizer, max_length)
            own = _serving_windows(sequences)
            for sequence in sequences:
                window = next(len(windows) + i for i, each in enumerate(own) if _begins_with(each, sequence[:-1]))
                predictions += [(window, place - 1, sequence[place], number) for place in range(common, len(sequence))]
                number += 1
            windows += own
            num_shortened += shortened
        length = max(map(len, windows))
        tokens = torch.tensor([[*window, *[PADDING] * (length - len(window))] for window in windows])
        table = torch.tensor(predictions)
        batch, table[:, 0] = table[:, 0] // batch_windows, table[:, 0] % batch_windows
        batches = tokens.to(device).split(batch_windows)
        num_choices = tuple(len(question.choices) for question in questions)
        answers = tuple(question.answer for question in questions)
        return cls(
            role=roles.pop(),
            batches=batches,
            predictions=tuple(table[batch == index] for index in range(len(batches))),
            num_choices=num_choices,
            answers=answers,
            num_shortened=num_shortened,
            fingerprint=digest([windows, predictions, num_choices, answers]),
        )

    def right(self, walk: DecoderWalk, states: Sequence[Tensor]) -> Float[Tensor, " questions"]:
        """Say per question whether its right choice has the highest log-probability, summed over its tokens: 1 or 0.

        Of choices with the same log-probability the first counts. The mean is the accuracy, in which every question has
        the same weight, whatever its subject.

        Args:
            states: Per batch, the state that a model leaves after its last block.

        Returns:
            All NaN where the model gives a log-probability that is not finite.
        """
        return self.joined([self.score_batch(index, state, walk) for index, state in enumerate(states)])

    @torch.no_grad()
    def score_batch(
        self, index: int, state: Float[Tensor, "windows length state"], walk: DecoderWalk
    ) -> Float[Tensor, " choices"]:
        """Give what one batch adds to every choice's log-probability in nats.

        Tokens that all choices of a question begin with are left out: they add the same to each.
        """
        scores, table = torch.zeros(sum(self.num_choices)), self.predictions[index]
        # The head runs once per position, not once per choice.
        places, place = table[:, :2].unique(dim=0, return_inverse=True)
        normed = walk.final_norm(state[places[:, 0], places[:, 1]])
        log_probabilities = walk.logits(normed).float().log_softmax(-1)
        # Summed on the CPU, where the order of the sum is fixed.
        return scores.index_add_(0, table[:, 3], log_probabilities[place, table[:, 2]].cpu())

    def joined(self, parts: Sequence[Float[Tensor, " choices"]]) -> Float[Tensor, " questions"]:
        """Say from what all batches add whether the right choices are ahead; see `right`."""
        scores = torch.stack(list(parts)).sum(0)
        if not scores.isfinite().all():
            return torch.full((len(self.answers),), float("nan"), dtype=torch.float64)
        own = zip(scores.split(self.num_choices), self.answers, strict=True)
        return torch.tensor([int(score.argmax()) == answer for score, answer in own], dtype=torch.float64)


def load_choices(
    folder: str, shots: int, role: Role, count: int, seed: int, dense: DenseModel, batch_tokens: int
) -> ChoiceSet:
    """Read a folder, choose questions of a role, and tokenise them for a model.

    Raises:
        DataError: The folder cannot be used, or the role has fewer questions.
    """
    questions = choose_questions(read_questions(folder, shots), role, count, seed)
    longest = min(getattr(dense.model.config, "max_position_embeddings", None) or QUESTION_TOKENS, QUESTION_TOKENS)
    batch = max(1, batch_tokens // longest)
    return ChoiceSet.build(questions, dense.tokenizer, longest, batch, dense.model.device)


def _read_subject(file: Path, shots: int) -> list[Question]:
    subject = file.name.removesuffix("_test.csv")
    header = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    rows = _read_rows(file.parents[1] / "dev" / f"{subject}_dev.csv") if shots else []
    if len(rows) < shots:
        raise DataError(
            f"subject {subject!r} has {len(rows)} examples in dev, {shots} are needed; ask for fewer shots or add some"
        )
    starts, before = [len(header)], header
    for row in rows[:shots]:
        before += f"{_ask(row)} {row[5]}\n\n"
        starts.append(len(before))
    choices = tuple(f" {letter}" for letter in LETTERS)
    return [
        Question(subject, before + _ask(row), choices, LETTERS.index(row[5]), tuple(starts)) for row in _read_rows(file)
    ]


def _ask(row: list[str]) -> str:
    options = "".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, row[1:5], strict=True))
    return f"{row[0]}{options}\nAnswer:"


def _read_rows(file: Path) -> list[list[str]]:
    rows = []
    try:
        # Some editors begin UTF-8 files with a mark, which would become part of the first question.
        text = file.read_bytes().decode("utf-8-sig")
        reader = csv.reader(StringIO(text, newline=""), strict=True)
        for row in reader:
            if not row:
                continue
            if len(row) != 6 or row[5] not in tuple(LETTERS):
                raise DataError(
                    f"{file}, line {reader.line_num}: expected question, A, B, C, D and a letter of {LETTERS}, "
                    f"got {len(row)} fields, the last {row[-1][:40]!r}; correct the row or take it out"
                )
            rows.append(row)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{str(file)!r} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    except (OSError, csv.Error) as error:
        raise DataError(
            f"{str(file)!r} cannot be read as CSV ({type(error).__name__}: {error}); correct it or copy it again"
        ) from error
    return rows


def _fit(question: Question, tokenizer: PreTrainedTokenizerBase, max_length: int) -> tuple[list[list[int]], int, bool]:
    """Tokenise the prompt with each choice, and shorten it until the windows are long enough.

    Prompt and choice are one text to the tokenizer, as they are to a model that answers: it may merge over the border,
    or give all choices a first token in common. So the prompt is what the sequences begin with together.

    Returns:
        The sequences, the number of tokens they begin with together, and whether something was taken away.
    """
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    for cut in range(len(question.starts)):
        texts = [question.without_shots(cut) + choice for choice in question.choices]
        encoded: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        # The last token predicts nothing and needs no room.
        excess = len(start) + max(map(len, encoded)) - 1 - max_length
        if excess <= 0:
            break
    if len(set(map(tuple, encoded))) < len(encoded):
        raise DataError(
            f"the tokenizer gives two of the choices {', '.join(map(repr, question.choices))} the same tokens, so that "
            "no model could tell them apart; use a tokenizer that knows them"
        )
    equal = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*encoded, strict=False)))
    common = min(equal, *(len(sequence) - 1 for sequence in encoded))
    taken = max(excess, 0)
    if taken >= common:
        raise DataError(
            f"max_length={max_length} leaves no token of a prompt on {question.subject!r}; "
            f"at least {max_length + taken - common + 1} are needed, and enough for a question are sensible"
        )
    return [[*start, *sequence[taken:]] for sequence in encoded], len(start) + common - taken, cut > 0 or taken > 0


def _serving_windows(sequences: list[list[int]]) -> list[list[int]]:
    windows: list[list[int]] = []
    for sequence in sorted(sequences, key=len, reverse=True):
        if not any(_begins_with(window, sequence[:-1]) for window in windows):
            windows.append(sequence[:-1])
    return windows


def _begins_with(window: list[int], tokens: list[int]) -> bool:
    return window[: len(tokens)] == tokens
