"""Tasks in local files, as task configurations of lm-evaluation-harness: nothing is downloaded."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from secateur.errors import DataError, suggestion
from secateur.evaluation.multiple_choice import read_questions

MMLU = "mmlu"
MMLU_SHOTS = 5
Row = Mapping[str, Any]


@dataclass(frozen=True)
class LocalTask:
    """Questions, and how lm-eval is to ask them.

    Attributes:
        config: Of lm-eval, but for the questions.
        shots: Solved examples that lm-eval puts before each question, from the same file.
        shots_inside: That are in the questions already.
    """

    name: str
    rows: Sequence[Row]
    config: Mapping[str, Any]
    shots: int = 0
    shots_inside: int = 0


def _metric(name: str, aggregation: str = "mean", *, higher_is_better: bool = True) -> dict[str, Any]:
    return {"metric": name, "aggregation": aggregation, "higher_is_better": higher_is_better}


def ask(row: Row) -> str:
    """Give the prompt of a question: as it stands, and behind a `Question:` a line for the answer."""
    query = str(row["query"]).rstrip()
    asks = query.startswith("Question:") or "\nQuestion:" in query
    return f"{query}\nAnswer:" if asks else query


def _is_choice(row: Row) -> bool:
    return _is_texts(row.get("choices")) and isinstance(row.get("query"), str) and _is_index(row, "choices")


def _is_schema(row: Row) -> bool:
    texts = _is_texts(row.get("context_options")) and isinstance(row.get("continuation"), str)
    return texts and _is_index(row, "context_options")


def _is_continuation(row: Row) -> bool:
    return all(isinstance(row.get(name), str) and row[name] for name in ("context", "continuation"))


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(isinstance(each, str) for each in value)


def _is_index(row: Row, options: str) -> bool:
    return isinstance(row.get("gold"), int) and 0 <= row["gold"] < len(row[options])


# Fields of a line, what checks one, and how lm-eval asks it: a choice by its likelihood behind the query; a context by
# the likelihood of what follows it (WinoGrande); one continuation, greedily (LAMBADA).
FORMS: dict[tuple[str, ...], tuple[Callable[[Row], bool], dict[str, Any]]] = {
    ("query", "choices", "gold"): (
        _is_choice,
        {
            "output_type": "multiple_choice",
            "doc_to_text": ask,
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
            "metric_list": [_metric("acc"), _metric("acc_norm")],
        },
    ),
    ("context_options", "continuation", "gold"): (
        _is_schema,
        {
            "output_type": "multiple_choice",
            "doc_to_text": "gold",
            "doc_to_choice": "context_options",
            "doc_to_target": "continuation",
            "metric_list": [_metric("acc")],
        },
    ),
    ("context", "continuation"): (
        _is_continuation,
        {
            "output_type": "loglikelihood",
            "doc_to_text": "context",
            "doc_to_target": "{{' ' + continuation}}",
            "target_delimiter": "",  # lm-eval puts none before a single continuation
            "metric_list": [_metric("acc"), _metric("perplexity", "perplexity", higher_is_better=False)],
        },
    ),
}


class TaskFolder:
    """A folder with MMLU's `dev/` and `test/` (or `mmlu/` with them), and `*.jsonl` (or `tasks/*.jsonl`).

    The lines of a `.jsonl` file are in the format of llm-foundry's local evaluation data; see `FORMS`.
    """

    def __init__(self, folder: Path) -> None:
        """Look what is there.

        Raises:
            DataError: There is no task.
        """
        self.folder = folder
        if not self.files and self.mmlu is None:
            raise DataError(
                f"{str(folder)!r} holds no tasks; give a folder with *.jsonl files, or with MMLU's dev/ and test/"
            )

    @cached_property
    def files(self) -> dict[str, Path]:
        """Give the `.jsonl` files by the name of their task."""
        folders = (self.folder, self.folder / "tasks")
        return {path.stem: path for folder in folders for path in sorted(folder.glob("*.jsonl"))}

    @cached_property
    def mmlu(self) -> Path | None:
        """Give the folder of MMLU, if there is one."""
        folders = (self.folder, self.folder / MMLU)
        return next((folder for folder in folders if any((folder / "test").glob("*_test.csv"))), None)

    @cached_property
    def names(self) -> list[str]:
        """List the tasks: `mmlu` stands for all of its subjects, `mmlu_<subject>` for one."""
        if self.mmlu is None:
            return list(self.files)
        subjects = sorted(path.name.removesuffix("_test.csv") for path in (self.mmlu / "test").glob("*_test.csv"))
        return [*self.files, MMLU, *(f"{MMLU}_{subject}" for subject in subjects)]

    def read(self, names: Sequence[str], shots: int | None = None) -> list[LocalTask]:
        """Read tasks by name.

        Args:
            shots: Solved examples before each question; 5 for MMLU and none for others if not given.

        Raises:
            DataError: A name is not known, or a file cannot be read.
        """
        tasks: list[LocalTask] = []
        for name in names:
            if name not in self.names:
                raise DataError(f"{str(self.folder)!r} has no task {name!r}; {suggestion(name, self._short_names())}")
            tasks += [_read_file(self.files[name], shots or 0)] if name in self.files else self._mmlu(name, shots)
        return tasks

    def _short_names(self) -> list[str]:
        return [*self.files, *([MMLU] if self.mmlu else [])]

    def _mmlu(self, name: str, shots: int | None) -> list[LocalTask]:
        count = MMLU_SHOTS if shots is None else shots
        rows: dict[str, list[Row]] = {}
        for question in read_questions(str(self.mmlu), count):
            task = f"{MMLU}_{question.subject}"
            if name in (MMLU, task):
                row = {"prompt": question.prompt, "choices": list(question.choices), "answer": question.answer}
                rows.setdefault(task, []).append(row)
        config = {
            "output_type": "multiple_choice",
            "doc_to_text": "prompt",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "target_delimiter": "",  # the choices begin with their blank
            "metric_list": [_metric("acc")],
        }
        return [LocalTask(task, own, config, shots_inside=count) for task, own in rows.items()]


def _read_file(path: Path, shots: int) -> LocalTask:
    rows: list[Row] = []
    form: tuple[str, ...] | None = None
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{str(path)!r} cannot be read as UTF-8 ({error}); correct it or copy it again") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not JSON ({error}); correct the line or take it out") from error
        fitting = [fields for fields, (check, _) in FORMS.items() if isinstance(row, dict) and check(row)]
        form = form or next(iter(fitting), None)
        if form is None or form not in fitting:
            known = "; ".join(", ".join(fields) for fields in FORMS)
            raise DataError(
                f"{path}, line {number}: not a question in the form of the file, {line[:60]!r}; fields must be one of: "
                f"{known} (gold: number of the right one, from 0)"
            )
        rows.append({name: row[name] for name in form})
    if form is None:
        raise DataError(f"{str(path)!r} holds no question; correct it or copy it again")
    return LocalTask(path.stem, rows, FORMS[form][1], shots=shots)
