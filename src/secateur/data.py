"""From text to token sets with a role.

The unit of everything is the document: sets are split by a hash of a document's content, so the same document can never
stand in two of them, whatever files it comes from.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from secateur.demo import generate_documents
from secateur.errors import DataError
from secateur.token_stream import Conversation, Instruction, TokenStream, answered, encode, encode_rows

DOCUMENT_SEPARATOR = "<|endoftext|>"
MIN_WINDOWS = 4
# Seed and size of the text that `--data demo` stands for; the demo model was trained on documents of other seeds.
DEMO_SEED = 20_261_124
DEMO_DOCUMENTS = 4_000
# And of `demo:recovery`, of which there is more.
DEMO_STREAMS = {"demo": (DEMO_SEED, DEMO_DOCUMENTS), "demo:recovery": (DEMO_SEED + 1, 16_000)}
FILE_SUFFIXES = (".txt", ".jsonl", ".raw", ".tokens")
# Documents by the name of a source; such names begin so, and go on with a digest of the documents.
Texts = Mapping[str, Sequence[str]]
IN_MEMORY = "memory:"
NO_TEXTS: Texts = {}


class Role(StrEnum):
    """What a token set may be used for.

    Calibration gives importance and statistics, selection ranks candidates, evaluation gives the reported numbers.
    """

    CALIBRATION = "calibration"
    SELECTION = "selection"
    EVALUATION = "evaluation"


# Share of the documents, by hash, that goes to each set where one source serves all three.
SPLIT = {Role.CALIBRATION: 0.4, Role.SELECTION: 0.25, Role.EVALUATION: 0.35}


@dataclass(frozen=True)
class TokenSet:
    """Windows of equal length, with the only role they may be used in.

    `window_bytes` are the UTF-8 bytes of the text that each window's predictions stand for: of all its tokens but the
    first. None where that is not known.
    """

    role: Role
    tokens: Int[Tensor, "windows length"]
    window_bytes: Int[Tensor, " windows"] | None = None

    @property
    def num_tokens(self) -> int:
        return self.tokens.numel()

    @property
    def sequence_length(self) -> int:
        return self.tokens.shape[1]

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.tokens.to(torch.int64).cpu().numpy().tobytes()).hexdigest()[:16]

    def expect(self, role: Role) -> "TokenSet":
        """Return itself where the role fits.

        Raises:
            ValueError: The set has another role. This is a mistake in the program, never the user's.
        """
        if self.role is not role:
            raise ValueError(f"a {role} set is expected here, got the {self.role} set")
        return self


def read_documents(source: str, text_field: str = "text", texts: Texts = NO_TEXTS) -> list[str]:
    """Read the documents of one source.

    A `.txt` file is cut at `<|endoftext|>` where it has any, else at blank lines, else at line ends; a `.jsonl` file
    has one document per line: a text, the messages of a chat (`Conversation`), or an instruction with its response
    (`Instruction`); `demo` is generated; anything else is the id of a data set on the hub.

    Args:
        texts: Documents that were handed over instead, by the name of their source.

    Raises:
        DataError: The source is missing, is not UTF-8, or has no text in it.
    """
    read = texts[source] if source in texts else _read(source, text_field, _documents)
    whole = (Conversation, Instruction)
    stripped = (document if isinstance(document, whole) else document.strip() for document in read)
    documents = [document for document in stripped if document]
    if not documents:
        raise DataError(f"data source {source!r} has no text in it; give a file with at least one document")
    return documents


def read_rows(source: str, text_field: str = "text") -> list[str]:
    """Read a source as the rows of a data set, for published perplexities.

    Documents where `read_documents` finds `<|endoftext|>`, fields or generated ones; else the lines of the file as the
    data sets' own loaders give them: a file with blank lines keeps its line ends and has empty rows where it is blank
    (WikiText), one without loses its line ends (Penn Treebank).

    Raises:
        DataError: As `read_documents`.
    """
    return list(_read(source, text_field, _rows))


def _read(source: str, text_field: str, split: Callable[[str], list[str]]) -> Iterable[str]:
    path = Path(source)
    if source in DEMO_STREAMS:
        seed, count = DEMO_STREAMS[source]
        return [document.text for document in generate_documents(count, seed=seed)]
    if source.startswith(IN_MEMORY):
        raise DataError(
            f"{source!r} was handed over in Python and lies in no file; call secateur.prune again with the same data"
        )
    if path.suffix not in FILE_SUFFIXES and not path.exists():
        return _hub_texts(source, text_field)
    if not path.is_file():
        raise DataError(f"data file {source!r} does not exist or is not a file; give .txt or .jsonl files")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"data file {source!r} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    return _jsonl_texts(text, source, text_field) if path.suffix == ".jsonl" else split(text)


def build_token_sets(
    documents_of: dict[Role, list[str]],
    tokenizer: PreTrainedTokenizerBase,
    sequence_length: int,
    num_tokens: dict[Role, int],
) -> dict[Role, TokenSet]:
    """Tokenise and pack each role's documents into windows.

    Documents are taken in the order of their hash until a set has its number of tokens, each begun with the tokenizer's
    BOS (its EOS where it has no BOS), and packed one after the other.

    Raises:
        DataError: A set has fewer than `MIN_WINDOWS` windows.
    """
    sets = {}
    for role, documents in documents_of.items():
        wanted = max(num_tokens[role] // sequence_length, MIN_WINDOWS) * sequence_length
        pieces: list[TokenStream] = []
        found = 0
        for document in sorted(documents, key=_hash):
            pieces.append(encode(tokenizer, document))
            found += len(pieces[-1])
            if found >= wanted:
                break
        windows = min(found, wanted) // sequence_length
        if windows < MIN_WINDOWS:
            raise DataError(
                f"the {role} set has {found} tokens, at least {MIN_WINDOWS * sequence_length} are needed "
                f"({MIN_WINDOWS} windows of {sequence_length}); give more text or lower data.sequence_length"
            )
        sets[role] = _cut(TokenStream.joined(pieces), windows, sequence_length, role)
    return sets


def assign_documents(
    sources: list[str], named: dict[Role, list[str]], text_field: str = "text", texts: Texts = NO_TEXTS
) -> dict[Role, list[str]]:
    """Give every role its documents, none of them to two.

    A role in `named` takes the documents of its own sources; the others share those of `sources` by hash. A document
    that occurs again in a later role's own sources is left out there, so evaluation is what gives way.
    """
    shared = [document for source in sources for document in read_documents(source, text_field, texts)]
    taken: set[str] = set()
    assigned = {}
    for role in Role:
        if named.get(role):
            candidates = [document for source in named[role] for document in read_documents(source, text_field, texts)]
        else:
            candidates = [document for document in shared if _role_by_hash(document) is role]
        unique = {document: None for document in candidates if document not in taken}
        taken.update(unique)
        assigned[role] = list(unique)
    return assigned


def assign_group_documents(
    groups: Mapping[str, str], assigned: Mapping[Role, list[str]], text_field: str = "text", texts: Texts = NO_TEXTS
) -> dict[str, dict[Role, list[str]]]:
    """Give every group of text its selection and evaluation documents, by the hash that splits everything else.

    What the hash gives to calibration is left out. A document that a role holds already has that role here too, so
    that nothing a model was calibrated or chosen on is ever in a group's evaluation set.

    Args:
        groups: Source by name of the group.
        assigned: Documents by role, as `assign_documents` gave them.

    Raises:
        DataError: As `read_documents`.
    """
    roles = {document: role for role, documents in assigned.items() for document in documents}
    split: dict[str, dict[Role, list[str]]] = {}
    for name, source in groups.items():
        documents = dict.fromkeys(read_documents(source, text_field, texts))
        split[name] = {
            role: [document for document in documents if roles.get(document, _role_by_hash(document)) is role]
            for role in (Role.SELECTION, Role.EVALUATION)
        }
    return split


def group_documents_of(source: str, role: Role, text_field: str = "text", texts: Texts = NO_TEXTS) -> list[str]:
    """Give the documents of one source that the hash gives to a role."""
    return [document for document in read_documents(source, text_field, texts) if _role_by_hash(document) is role]


def build_group_sets(
    documents_of: Mapping[str, dict[Role, list[str]]],
    tokenizer: PreTrainedTokenizerBase,
    sequence_length: int,
    num_tokens: dict[Role, int],
) -> dict[str, dict[Role, TokenSet]]:
    """Pack every group's documents into windows, by group and role (see `build_token_sets`).

    Raises:
        DataError: A set of a group has too few windows; says whose.
    """
    sets = {}
    for name, documents in documents_of.items():
        try:
            sets[name] = build_token_sets(documents, tokenizer, sequence_length, num_tokens)
        except DataError as error:
            raise DataError(f"group {name!r}: {error}") from error
    return sets


def perplexity_windows(
    rows: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    sequence_length: int,
    role: Role = Role.EVALUATION,
    max_tokens: int | None = None,
) -> TokenSet:
    """Cut text the way published perplexities do: `ppl-128` with a length of 128, `ppl-2048` with 2048.

    Rows (see `read_rows`) are joined by a blank line, tokenised once (one BOS at the very start, if the tokenizer has
    one) and cut into windows that do not overlap, the remainder dropped.

    Args:
        max_tokens: Take the first windows of the text only, as many as fit (published figures take all).

    Source:
        LLM-Pruner's evaluation (arXiv 2305.11627), after GPTQ's (arXiv 2210.17323).

    Raises:
        DataError: There is less text than one window.
    """
    stream = encode_rows(rows, tokenizer)
    windows = len(stream.ids[:max_tokens]) // sequence_length
    if windows == 0:
        raise DataError(
            f"the text has {len(stream)} tokens, at least {sequence_length} are needed (one window); "
            "give more text with --data or take shorter windows"
        )
    return _cut(stream, windows, sequence_length, role)


def _cut(stream: TokenStream, windows: int, length: int, role: Role) -> TokenSet:
    starts = stream.byte_starts
    counted = None
    if starts is not None:
        counted = torch.tensor([starts[(k + 1) * length] - starts[k * length + 1] for k in range(windows)])
    return TokenSet(role, torch.tensor(stream.ids[: windows * length]).view(windows, length), counted)


def _hash(document: str) -> str:
    return hashlib.sha256(document.encode("utf-8", errors="surrogatepass")).hexdigest()


def _role_by_hash(document: str) -> Role:
    position = int(_hash(document)[:8], 16) / 2**32
    for role, share in SPLIT.items():
        if position < share:
            return role
        position -= share
    return Role.EVALUATION


def _rows(text: str) -> list[str]:
    if DOCUMENT_SEPARATOR in text:
        return text.split(DOCUMENT_SEPARATOR)
    lines = text.splitlines(keepends=True)
    if all(line.strip() for line in lines):
        return [line.strip() for line in lines]
    return [line if line.strip() else "" for line in lines]


def _documents(text: str) -> list[str]:
    if DOCUMENT_SEPARATOR in text:
        return text.split(DOCUMENT_SEPARATOR)
    lines = text.splitlines()
    if all(line.strip() for line in lines):
        return lines
    blank_marked = "\n".join(line if line.strip() else "" for line in lines)
    return blank_marked.split("\n\n")


def _jsonl_texts(text: str, source: str, text_field: str) -> Iterator[str]:
    # Not splitlines(): JSON strings may hold characters, U+2028 for one, that it takes for line ends.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            spoken = answered(record) if isinstance(record, dict) and text_field not in record else None
            value = spoken or record[text_field]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(
                f"{source}, line {number}: expected a JSON object with a text in {text_field!r}, messages or an "
                f"instruction ({type(error).__name__}: {str(error)[:80]}); name another field with --set "
                "data.text_field=..."
            ) from error
        if not isinstance(value, str):
            raise DataError(f"{source}, line {number}: field {text_field!r} is {type(value).__name__}, expected a text")
        if spoken:
            yield spoken
            continue
        # JSON can spell half a character (a lone surrogate), which no tokenizer takes.
        yield value.encode("utf-8", "replace").decode("utf-8")


def _hub_texts(source: str, text_field: str) -> Iterator[str]:
    """Read `id`, `id:configuration` or `id:configuration:split` (default split `train`) from the hub."""
    try:
        import datasets  # noqa: PLC0415  an extra
    except ImportError as error:
        raise DataError(
            f"data source {source!r} is no file here, and hub data sets need the extra: pip install 'secateur[hub]'"
        ) from error
    name, configuration, split = (*source.split(":"), "", "")[:3]
    try:
        rows = datasets.load_dataset(name, configuration or None, split=split or "train")
        yield from ((answered(row) if text_field not in row else None) or row[text_field] for row in rows)
    except Exception as error:  # the hub client raises many kinds for a missing data set, field or network
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"hub data set {source!r} cannot be read: {type(error).__name__}: {reason}") from error
