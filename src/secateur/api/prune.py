"""`secateur.prune`: the main flow, on a model in memory or by name."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.api.foundations import NO_TOKENIZER
from secateur.api.pruned import Placement
from secateur.api.result import PruneResult
from secateur.api.settings import Config, Limits, run_settings
from secateur.api.texts import Text
from secateur.begun import check_folder, check_unchanged
from secateur.budget import Drop
from secateur.config import RunConfig, build_config, read_yaml
from secateur.errors import ConfigError
from secateur.execution.settings import LOCAL, Execution
from secateur.given import NOTHING_GIVEN, Given
from secateur.model.live import check_live, live_dense
from secateur.model.loading import choose_device
from secateur.model.placement import resolve_device_map
from secateur.pipeline import run_pipeline
from secateur.report.live import drawn_progress
from secateur.report.record import Report
from secateur.runs.folder import RunFolder
from secateur.runs.progress import Event, Listener, silent
from secateur.runs.records import read_record
from secateur.stages.front import read_front


def prune(
    model: PreTrainedModel | str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    data: Text | None = None,
    keep: int | float | None = None,
    max_params: int | str | None = None,
    max_flops: int | str | None = None,
    max_kv_cache_bytes: int | str | None = None,
    max_latency_ms: int | float | Mapping[str, int | float] | None = None,
    max_drop: str | Drop | None = None,
    minimize: str | None = None,
    target: str | None = None,
    recover: str | None = None,
    tensor_parallel: int | None = None,
    groups: Mapping[str, Text] | None = None,
    preset: str | None = None,
    config: Config | None = None,
    device: str | None = None,
    dtype: str | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    execution: Execution = LOCAL,
    callbacks: Sequence[Listener] = (),
    progress: bool | None = None,
) -> PruneResult:
    """Prune a model to a budget: what `secateur prune` does, on a model in memory too.

    >>> import secateur
    >>> from transformers import AutoModelForCausalLM, AutoTokenizer
    >>> model = AutoModelForCausalLM.from_pretrained(secateur.decoder_path(), dtype="float32")
    >>> tokenizer = AutoTokenizer.from_pretrained(secateur.decoder_path())
    >>> quick = {"data": {"sequence_length": 64, "calibration_tokens": 1024, "selection_tokens": 512}}
    >>> quick["data"]["evaluation_tokens"] = 1024
    >>> quick |= {"space": {"ffn_levels": 5}, "search": {"measurements": 25, "rounds": 1}}
    >>> quick["search"]["alternative_measurements"] = 0
    >>> quick |= {"pruning": {"reconstruction": "least_squares"}, "baselines": {"uniform": False}}
    >>> result = secateur.prune(model, tokenizer, keep=0.8, data="demo", config=quick, progress=False)
    >>> 0.79 < 1 - result.row.parameter_reduction <= 0.8
    True
    >>> sum(p.numel() for p in result.model.parameters()) == result.row.cost.total_parameters
    True
    >>> sum(p.numel() for p in model.parameters())  # as it was
    1427808

    Args:
        model: A causal model of transformers in memory, which stays as it is: the run works on modules of its own that
            share its weights. Or a folder, a hub id, or `"demo"`.
        tokenizer: Of a model in memory; one by name brings its own.
        data: Text to calibrate, select and evaluate on, split by document: a `.txt` or `.jsonl` file, a hub data set,
            `"demo"`, a list of these; or documents in memory: texts, rows of a data set with a `text`, chats.
        keep: Share of the parameters in the transformer blocks that may stay, in (0, 1]; 0.75 where nothing is limited.
        max_params: Parameters of the whole model; counts may be written as `"1.2B"`.
        max_flops: Per token, in the matrices of the blocks.
        max_kv_cache_bytes: Per token of context, at 2 bytes an entry.
        max_latency_ms: Per generated token, or `{"prefill": ms, "decode": ms}`, on this device.
        max_drop: In place of a size, what may be lost: `"5%"` of perplexity, `"kl=0.05"` nats per token,
            `"accuracy=2%"`. The model is made as small as that allows.
        minimize: What `max_drop` makes small: `params`, `flops`, `kv-cache-bytes`, `prefill` or `decode`.
        target: Who loads the result: `per-layer` (transformers), `uniform` or `padded` (whatever loads stock models),
            `gguf` (llama.cpp).
        recover: Train the result for a short while: `lora`, `qlora` or `full`; settings in `config["recovery"]`.
        tensor_parallel: Devices that heads and widths must divide among.
        groups: Text by name of a group (language, domain) that should lose no more than others; two or more.
        preset: A published method in place of the default; see `secateur.presets`.
        config: Any further settings: sections with fields, a `RunConfig`, or a YAML file. Arguments come after it.
        device, dtype: Of a model by name: where it is computed (`auto`, `cpu`, `cuda`), and in what. A model in memory
            is used where it lies; `dtype` may be given for it too.
        seed: Every random choice derives from it; 0 if not given.
        out: Run folder. A call that was interrupted goes on when it is made again with the same arguments, one that was
            finished gives its result at once. Without it the folder is temporary, and lives as long as the result.
        execution: Who measures candidates: this process, others, or a Ray cluster; they read model and text from files.
        callbacks: Functions that are called with the events of `secateur.runs.progress`.
        progress: Whether progress is drawn on the terminal; if not given, where there are no callbacks.

    Raises:
        InputError: As from the command line (`ConfigError`, `ModelError`, `DataError`, `BudgetError`,
            `RunFolderError`): what was asked for cannot be done; nothing was written.
        ExportError: The exported model does not behave like the one that was measured.
    """
    check_model(model, tokenizer, device)
    limits = Limits(
        keep=keep,
        max_params=max_params,
        max_flops=max_flops,
        max_kv_cache_bytes=max_kv_cache_bytes,
        max_latency_ms=max_latency_ms,
        max_drop=max_drop,
        minimize=minimize,
    )
    others: dict[str, dict[str, Any]] = {
        "model": {"device": device, "dtype": dtype},
        "export": {"target": target},
        "recovery": {"method": recover},
        "space": {"tensor_parallel": tensor_parallel},
    }
    settings, texts = run_settings(model, data, groups, limits, preset=preset, config=config, others=others, seed=seed)
    given = Given(None if isinstance(model, str | Path) else model, tokenizer, texts)
    temporary = tempfile.TemporaryDirectory(prefix="secateur-") if out is None else None
    root = Path(temporary.name if temporary is not None else str(out))
    refuse_other_model(root, settings, given)
    with listening(callbacks, progress) as listener:
        report = run_pipeline(settings, root, listener, given, execution)
    later = told(callbacks) if callbacks else silent
    return result_of(root, settings, report, given, temporary, later)


def open_run(root: str | Path) -> PruneResult:
    """Open the folder of a finished run, made in Python or by `secateur prune`.

    >>> import secateur
    >>> secateur.open_run("nowhere")
    Traceback (most recent call last):
    secateur.errors.RunFolderError: nowhere holds no run (no config.yaml); give a folder that `secateur prune` made

    Other points of a run on a model in memory cannot be exported from it: call `prune` with the model again instead.

    Raises:
        RunFolderError: There is no run, or it is not finished.
    """
    folder = RunFolder(Path(root))
    read_front(folder.root)
    report = read_record(folder.report, Report)
    return result_of(folder.root, build_config([read_yaml(folder.config)]), report)


def result_of(
    root: Path,
    config: RunConfig,
    report: Report,
    given: Given = NOTHING_GIVEN,
    kept: object = None,
    listener: Listener = silent,
) -> PruneResult:
    """Give the result of a finished run.

    Args:
        kept: Holds the folder, where it is temporary.
    """
    return PruneResult(
        RunFolder(root).root / report.export.folder,
        report.result,
        report.export,
        placement_of(config, given),
        kept,
        report=report,
        front=read_front(root),
        run_folder=root,
        listener=listener,
        given=given,
    )


def placement_of(config: RunConfig, given: Given) -> Placement:
    """Say where pruned models are loaded to: where the dense one is or was."""
    if given.model is not None:
        return Placement.like(given.model)
    if config.model.device_map is not None:
        return Placement(device_map=resolve_device_map(config.model.device, config.model.device_map))
    return Placement(device=choose_device(config.model.device))


def check_model(model: object, tokenizer: object, device: str | None) -> None:
    """Refuse what is no model, or comes without what it needs or with what it does not.

    Raises:
        ModelError, ConfigError: As their names say.
    """
    if isinstance(model, str | Path):
        if tokenizer is not None:
            raise ConfigError(
                f"model {str(model)!r} is loaded with its own tokenizer; leave the tokenizer out, or load the model "
                "and give both"
            )
        return
    check_live(model)
    if tokenizer is None:
        raise ConfigError(NO_TOKENIZER)
    if device is not None:
        raise ConfigError(f"device={device!r}: a model in memory is pruned where it lies; move it with model.to()")


def refuse_other_model(root: Path, config: RunConfig, given: Given) -> None:
    """Refuse to give the result of a finished run for another model in memory: its folder knows the name alone.

    Raises:
        RunFolderError: It is another run's, or the weights are others.
    """
    folder = RunFolder(root)
    if given.model is None or given.tokenizer is None or not folder.report.is_file():
        return
    check_folder(folder, config)
    stored = str(given.model.dtype).removeprefix("torch.")
    dense = live_dense(given.model, given.tokenizer, stored, experts=config.space.experts)
    known = read_record(folder.report, Report).fingerprints
    check_unchanged(root, known, {"model": dense.fingerprint()})


def told(callbacks: Sequence[Listener]) -> Listener:
    """Give one listener for several."""

    def listen(event: Event) -> None:
        for callback in callbacks:
            callback(event)

    return listen


@contextmanager
def listening(callbacks: Sequence[Listener], progress: bool | None) -> Iterator[Listener]:
    """Give who listens to a run: the callbacks, and a drawing of it where that is wanted."""
    if not (progress or (progress is None and not callbacks)):
        yield told(callbacks)
        return
    with drawn_progress(Console()) as drawn:
        yield told([*callbacks, drawn])
