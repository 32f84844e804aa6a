"""Experiment trackers: what a run says, as scalars in TensorBoard, MLflow, trackio or W&B.

    with tracked(["tensorboard"], Path("runs/mine")) as listener:
        run_pipeline(config, Path("runs/mine"), listener)

All of them get the same: `search/kl` and `search/best_kl` per candidate, `predictor/kendall_tau` per fit,
`seconds/STAGE`, and at the end the figures of the report's rows, with the configuration as parameters. Nothing leaves
the machine unless the tracker was told to: see each one.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from secateur.errors import ConfigError, suggestion
from secateur.runs.progress import (
    Event,
    Listener,
    PredictorFitted,
    RunFinished,
    StageAdvanced,
    StageEnded,
    WorkExpected,
)

PROJECT = "secateur"


@runtime_checkable
class Tracker(Protocol):
    """Where scalars go."""

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Note scalars by name at a step."""
        ...

    def finish(self, parameters: Mapping[str, str], figures: Mapping[str, float]) -> None:
        """Note the configuration and the figures of the result, once they are known."""
        ...

    def close(self) -> None:
        """End the tracker's run, finished or not."""
        ...


class Tracked:
    """Listens to a run for one tracker."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self._step = 0

    def listen(self, event: Event) -> None:
        if isinstance(event, StageAdvanced) and event.value is not None:
            self._step += 1
            scalars = {f"{event.stage}/{event.metric.lower()}": event.value}
            if event.lowest is not None:
                scalars[f"{event.stage}/best_kl"] = event.lowest
            self.tracker.log(self._step, scalars)
        elif isinstance(event, PredictorFitted):
            quality = {"predictor/kendall_tau": event.kendall_tau, "predictor/pairs": float(event.num_pairs)}
            self.tracker.log(self._step, quality)
        elif isinstance(event, StageEnded):
            self.tracker.log(self._step, {f"seconds/{event.stage}": event.seconds})
        elif isinstance(event, RunFinished):
            self.tracker.finish(event.parameters, event.figures)


class TensorBoard:
    """Event files in DIR/tensorboard, for `tensorboard --logdir DIR`."""

    def __init__(self, root: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an extra

        self._writer = SummaryWriter(str(root / "tensorboard"))

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, parameters: Mapping[str, str], figures: Mapping[str, float]) -> None:
        self._writer.add_hparams(dict(parameters), dict(figures), run_name=".")

    def close(self) -> None:
        self._writer.close()


class MLflow:
    """A run in DIR/mlruns, or wherever MLFLOW_TRACKING_URI says."""

    def __init__(self, root: Path) -> None:
        from mlflow import MlflowClient  # noqa: PLC0415 - an extra

        # Files need no server; MLflow would rather have a database, which needs more than mlflow-skinny.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        uri = os.environ.get("MLFLOW_TRACKING_URI") or (root / "mlruns").absolute().as_uri()
        self._client = MlflowClient(tracking_uri=uri)
        known = self._client.get_experiment_by_name(PROJECT)
        experiment = known.experiment_id if known else self._client.create_experiment(PROJECT)
        self._run = self._client.create_run(experiment, run_name=root.name).info.run_id
        self._status = "KILLED"

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._client.log_metric(self._run, name, value, step=step)

    def finish(self, parameters: Mapping[str, str], figures: Mapping[str, float]) -> None:
        for name, value in parameters.items():
            self._client.log_param(self._run, name, value[:500])
        for name, figure in figures.items():
            self._client.log_metric(self._run, name, figure)
        self._status = "FINISHED"

    def close(self) -> None:
        self._client.set_terminated(self._run, self._status)


class _OfWandb:
    """What W&B and trackio, which took over its interface, have in common."""

    def __init__(self, library: Any, **options: Any) -> None:
        self._library = library
        self._run = library.init(project=PROJECT, **options)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        # Their own counter counts calls, and must not go back.
        self._library.log({**scalars, "candidate": step})

    def finish(self, parameters: Mapping[str, str], figures: Mapping[str, float]) -> None:
        self._run.config.update(dict(parameters))
        self._library.log(dict(figures))

    def close(self) -> None:
        self._library.finish()


class Trackio(_OfWandb):
    """A local database in trackio's own folder (TRACKIO_DIR), for `trackio show --project secateur`."""

    def __init__(self, root: Path) -> None:
        import trackio  # noqa: PLC0415 - an extra

        super().__init__(trackio, name=root.name)


class Wandb(_OfWandb):
    """A W&B run, files in DIR/wandb; online or not as WANDB_MODE says. Written to its interface, never run here."""

    def __init__(self, root: Path) -> None:
        import wandb  # noqa: PLC0415 - an extra

        super().__init__(wandb, name=root.name, dir=str(root))


@contextmanager
def tracked(names: Sequence[str], root: Path) -> Iterator[Listener]:
    """Give a listener that tells trackers about the run in a folder. They begin with the run, and end whatever ends it.

    What is refused before a run begins leaves nothing: the first event after loading opens them.

    Raises:
        ConfigError: A name is unknown, or its library is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"--track {name!r} is unknown; {suggestion(name, TRACKERS)}")
        if find_spec(name) is None:
            raise ConfigError(f"--track {name} needs a library that is not here; pip install 'secateur[{name}]'")
    with ExitStack() as stack:
        opened: list[Tracked] = []

        def listen(event: Event) -> None:
            if not opened and isinstance(event, WorkExpected):
                for name in dict.fromkeys(names):
                    tracker = TRACKERS[name](root)
                    stack.callback(tracker.close)
                    opened.append(Tracked(tracker))
            for each in opened:
                each.listen(event)

        yield listen


# By the name that the extra and the imported library have too.
TRACKERS: dict[str, Callable[[Path], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "trackio": Trackio,
    "wandb": Wandb,
}
