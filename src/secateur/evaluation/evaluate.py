"""Everything that `secateur evaluate` says of a model, or of two beside each other: text, tasks, speed."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from pydantic import Field

from secateur.data import read_rows
from secateur.demo import decoder_path
from secateur.errors import ConfigError, DataError
from secateur.evaluation.paired import PairedComparison
from secateur.evaluation.protocols import find_protocol
from secateur.evaluation.speed import SpeedComparison, TimedModel, compare_speed, weights_bytes
from secateur.evaluation.tasks import TaskScore, run_tasks
from secateur.evaluation.text import NamedModel, TextOutcome, TextResult, evaluate_text
from secateur.model.loading import load_causal_model
from secateur.schema import Record, derive_seed

DEFAULT_PROTOCOL = "ppl-128"
DEMO = "demo"


class Evaluation(Record):
    """What `secateur evaluate --json` writes."""

    secateur: str = Field(description="version")
    model: str
    against: str | None = Field(description="what it was compared with; null if nothing")
    device: str
    dtype: str = Field(description="computed in")
    data: tuple[str, ...] = Field(description="sources of the text")
    seed: int = Field(description="of bootstrap, sign flips, few-shot draws and orders of timing")
    texts: tuple[TextResult, ...] = Field((), description="per protocol, of each model")
    comparisons: tuple[PairedComparison, ...] = Field((), description="per protocol, of the model against the other")
    tasks: tuple[TaskScore, ...] = ()
    speed: SpeedComparison | None = None
    notes: tuple[str, ...] = Field((), description="what is not said, and why; what was cut")


@dataclass(frozen=True)
class TaskRequest:
    """Which tasks, from where, with how many examples and questions; see `run_tasks`."""

    names: tuple[str, ...] = ()
    folder: Path | None = None
    shots: int | None = None
    limit: int | None = None
    batch: int = 8

    @property
    def is_empty(self) -> bool:
        return not self.names and self.folder is None


@dataclass(frozen=True)
class SpeedRequest:
    """How models are timed; see `compare_speed`."""

    prompt_tokens: int = 128
    new_tokens: int = 32
    batch: int = 1
    repeats: int = 15


@dataclass(frozen=True)
class Wanted:
    """What is to be evaluated, and how it is loaded."""

    model: str
    against: str | None = None
    sources: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    tasks: TaskRequest = TaskRequest()
    speed: SpeedRequest | None = None
    device: str = "auto"
    dtype: str = "auto"
    batch_tokens: int = 4_096
    seed: int = 0
    trust_remote_code: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        """Give the sources of text; the demo model has its own."""
        return self.sources or ((DEMO,) if self.model == DEMO else ())

    @property
    def wants_text(self) -> bool:
        """Whether text was asked for: by a source, a protocol, or by nothing else."""
        return bool(self.sources or self.protocols) or (self.tasks.is_empty and self.speed is None)


def evaluate_models(wanted: Wanted, advance: Callable[[], None] = lambda: None) -> Evaluation:
    """Load one model or two, and evaluate what is wanted.

    Raises:
        ConfigError, DataError, ModelError: Something cannot be used as asked; names and files are checked first.
    """
    protocols = [find_protocol(name) for name in wanted.protocols or (DEFAULT_PROTOCOL,)]
    if wanted.tasks.folder is not None and not wanted.tasks.folder.is_dir():
        raise DataError(f"--task-data {str(wanted.tasks.folder)!r} is not a folder; give one with task files")
    if wanted.wants_text and not wanted.texts:
        raise DataError("no text was given; add --data PATH")
    rows = [row for source in wanted.texts for row in read_rows(source)] if wanted.wants_text else []
    models, sizes = _load(wanted)
    outcome = TextOutcome((), (), ())
    if wanted.wants_text:
        outcome = evaluate_text(models, rows, protocols, wanted.batch_tokens, wanted.seed, advance=advance)
    asked = wanted.tasks
    tasks = [
        run_tasks(each, asked.names, asked.folder, asked.shots, asked.limit, asked.batch, wanted.seed)
        for each in models
        if not asked.is_empty
    ]
    speed = None
    if wanted.speed is not None:
        # What the model is compared with comes first: ratios are against it.
        timed = [TimedModel(each.name, each.model, size) for each, size in zip(models, sizes, strict=True)][::-1]
        how, seed = wanted.speed, derive_seed(wanted.seed, "speed")
        speed = compare_speed(timed, how.prompt_tokens, how.new_tokens, how.batch, how.repeats, seed, None, advance)
    return Evaluation(
        secateur=version("secateur"),
        model=models[0].name,
        against=models[1].name if len(models) > 1 else None,
        device=str(models[0].model.device),
        dtype=str(models[0].model.dtype).removeprefix("torch."),
        data=wanted.texts if wanted.wants_text else (),
        seed=wanted.seed,
        texts=outcome.results,
        comparisons=outcome.comparisons,
        tasks=tuple(score for each in tasks for score in each.scores),
        speed=speed,
        notes=(*outcome.notes, *(note for each in tasks for note in each.notes)),
    )


def _load(wanted: Wanted) -> tuple[list[NamedModel], list[int]]:
    """Load the models, with the bytes of their files."""
    models: list[NamedModel] = []
    sizes: list[int] = []
    for name in filter(None, (wanted.model, wanted.against)):
        path = str(decoder_path()) if name == DEMO else name
        model, tokenizer, stored = load_causal_model(
            path, wanted.device, wanted.dtype, trust_remote_code=wanted.trust_remote_code
        )
        if models and models[0].model.device != model.device:
            raise ConfigError(
                f"models on {models[0].model.device} and {model.device} cannot be compared; name a --device"
            )
        again = models and name == models[0].name
        models.append(NamedModel(f"{name} (again)" if again else name, model.requires_grad_(False), tokenizer))
        sizes.append(weights_bytes(path, model, stored))
    return models, sizes
