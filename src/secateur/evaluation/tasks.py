"""Tasks through lm-evaluation-harness, its own or from local files, on models that are loaded already."""

import io
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from secateur.errors import ConfigError, DataError, suggestion
from secateur.evaluation.task_files import MMLU, LocalTask, TaskFolder
from secateur.evaluation.text import NamedModel
from secateur.schema import Record

# For metrics whose standard error has no formula, such as LAMBADA's perplexity.
BOOTSTRAPS = 1_000


class TaskScore(Record):
    """One metric of one model on one task."""

    model: str
    task: str
    metric: str = Field(description="as lm-eval names it; means over MMLU say over what")
    value: float
    stderr: float | None = Field(description="standard error; null where lm-eval gives none")
    num_questions: int
    shots: int = Field(description="solved examples before each question")


@dataclass(frozen=True)
class TaskOutcome:
    """Scores, what has to be said about them, and the log-likelihoods that lm-eval read, by task and question."""

    scores: tuple[TaskScore, ...]
    notes: tuple[str, ...]
    likelihoods: Mapping[str, list[list[float]]]


def run_tasks(
    named: NamedModel,
    tasks: Sequence[str],
    folder: Path | None,
    shots: int | None = None,
    limit: int | None = None,
    batch: int = 8,
    seed: int = 0,
) -> TaskOutcome:
    """Run tasks by lm-eval's own evaluator, by likelihood.

    Names that `folder` has are read from it, and nothing is downloaded for them; others are lm-eval's own, whose data
    sets come from the hub. Without names, all tasks of the folder.

    Args:
        shots: Solved examples before each question; as each task has it (5 for MMLU) if not given.
        limit: Questions per task, its first, at most.

    Raises:
        ConfigError: lm-eval is missing, or does not know a name.
        DataError: A file or a data set cannot be read.
    """
    local = TaskFolder(folder) if folder is not None else None
    own = [name for name in tasks if local is None or name not in local.names]
    names = [name for name in tasks if name not in own]
    if local is not None and not tasks:
        names = [name for name in local.names if not name.startswith(f"{MMLU}_")]
    known = [*local.files, MMLU] if local is not None else []
    lm_eval = _lm_eval()
    read = local.read(names, shots) if local is not None else []
    with _quiet():
        loaded = _load(lm_eval, read, own, known)
        for name, task in loaded["tasks"].items():
            mine = next((each for each in read if each.name == name), None)
            count = mine.shots if mine is not None else shots
            task.set_config("num_fewshot", task.get_config("num_fewshot") or 0 if count is None else count)
            task.set_fewshot_seed(seed)
        model = _harness_model(lm_eval, named, batch)
        results = lm_eval.evaluator.evaluate(model, loaded, limit=limit, bootstrap_iters=BOOTSTRAPS)
    scores = _scores(named.name, results, {task.name: task.shots_inside for task in read})
    notes = []
    if model.num_cut:
        notes.append(
            f"{named.name}: {model.num_cut} of {model.num_requests} prompts with an answer were longer than the "
            f"model's {model.max_length} tokens; lm-eval takes away their beginning"
        )
    likelihoods = {
        task: [[float(answer[0]) for answer in sample["filtered_resps"]] for sample in samples]
        for task, samples in results["samples"].items()
        if all(isinstance(answer, tuple) for sample in samples for answer in sample["filtered_resps"])
    }
    return TaskOutcome((*scores, *mmlu_means(scores)), tuple(notes), likelihoods)


def mmlu_means(scores: Sequence[TaskScore]) -> list[TaskScore]:
    """Give both means over MMLU's subjects: of subjects, each with the same weight, and of questions.

    Standard errors are those of sums of independent means: sqrt(sum of (weight * stderr) ** 2).
    """
    subjects = [each for each in scores if each.task.startswith(f"{MMLU}_") and each.metric == "acc"]
    if len(subjects) < 2:
        return []
    total = sum(each.num_questions for each in subjects)
    weights = {
        "acc, mean of subjects": [1 / len(subjects)] * len(subjects),
        "acc, mean of questions": [each.num_questions / total for each in subjects],
    }
    means = []
    for metric, shares in weights.items():
        pairs = list(zip(shares, subjects, strict=True))
        errors = [share * each.stderr for share, each in pairs if each.stderr is not None]
        means.append(
            TaskScore(
                model=subjects[0].model,
                task=MMLU,
                metric=metric,
                value=sum(share * each.value for share, each in pairs),
                stderr=math.sqrt(sum(error**2 for error in errors)) if len(errors) == len(pairs) else None,
                num_questions=total,
                shots=subjects[0].shots,
            )
        )
    return means


def _scores(model: str, results: Mapping[str, Any], shots_inside: Mapping[str, int]) -> list[TaskScore]:
    scores = []
    for task, metrics in results["results"].items():
        count = results["n-samples"].get(task, {}).get("effective") or metrics.get("sample_len")
        for key, value in metrics.items():
            metric, _, used = key.partition(",")
            if not used or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = metrics.get(f"{metric}_stderr,{used}")
            scores.append(
                TaskScore(
                    model=model,
                    task=task,
                    metric=metric if used == "none" else f"{metric} ({used})",
                    value=float(value),
                    stderr=float(error) if isinstance(error, int | float) and math.isfinite(error) else None,
                    num_questions=int(count or 0),
                    shots=shots_inside.get(task, 0) or int(results["n-shot"].get(task) or 0),
                )
            )
    return scores


def _lm_eval() -> Any:
    try:
        import lm_eval  # noqa: PLC0415
        import lm_eval.evaluator  # noqa: PLC0415
        import lm_eval.models.huggingface  # noqa: PLC0415
        import lm_eval.tasks  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            f"tasks are run by lm-evaluation-harness, which is missing ({error}); pip install 'secateur[tasks]'"
        ) from error
    return lm_eval


def _load(lm_eval: Any, local: Sequence[LocalTask], own: Sequence[str], known: Sequence[str]) -> Any:
    """Have lm-eval make tasks of local questions and of its own names."""
    manager = lm_eval.tasks.TaskManager(include_defaults=bool(own))
    for name in own:
        if name not in manager.all_tasks:
            files = f", nor does --task-data ({suggestion(name, known)})" if known else ""
            raise ConfigError(
                f"lm-eval has no task {name!r}{files}; `lm_eval ls tasks` lists its own, --task-data DIR gives others"
            )
    try:
        return manager.load([*map(_configured, local), *own])
    except Exception as error:  # the hub, the file system and the data sets' own code raise their own kinds
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"the data of {', '.join(own) or 'the tasks'} cannot be loaded ({type(error).__name__}: {reason}); "
            "lm-eval's own tasks come from the hub: go online, or give local files with --task-data DIR"
        ) from error


def _configured(task: LocalTask) -> dict[str, Any]:
    def questions(**_: Any) -> dict[str, Any]:
        import datasets  # noqa: PLC0415

        return {"test": datasets.Dataset.from_list([dict(row) for row in task.rows])}

    splits = {"test_split": "test", "fewshot_split": "test"}
    return {"task": task.name, "custom_dataset": questions, **splits, **task.config}


def _harness_model(lm_eval: Any, named: NamedModel, batch: int) -> Any:
    base = lm_eval.models.huggingface.HFLM

    class Counting(base):  # type: ignore[misc, valid-type]
        """lm-eval's own model, which also counts what it cuts off."""

        num_requests = num_cut = 0

        def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
            self.num_requests += len(requests)
            # The last token of an answer predicts nothing and needs no room.
            self.num_cut += sum(len(context) + len(answer) > self.max_length + 1 for _, context, answer in requests)
            return super()._loglikelihood_tokens(requests, *args, **kwargs)

    # Special tokens before a prompt are those that the tokenizer writes by itself, which is lm-eval's own default.
    return Counting(pretrained=named.model, tokenizer=named.tokenizer, batch_size=batch)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep lm-eval from printing; its bars stay where somebody sees them."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    bars = nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO())
    try:
        with redirect_stdout(io.StringIO()), bars:
            yield
    finally:
        logger.setLevel(level)
