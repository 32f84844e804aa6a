"""Speed: the dense model and the exported one timed by turns, in this process."""

from functools import partial

from secateur.demo import decoder_path
from secateur.evaluation.speed import SpeedComparison, TimedModel, compare_speed, parameter_bytes, weights_bytes
from secateur.model.loading import load_causal_model
from secateur.runs.progress import stage_clock
from secateur.schema import derive_seed
from secateur.stages.run import Run

# The result is loaded beside what the run holds; and a CPU should not take minutes.
MOST_PARAMETERS = {"cpu": 500_000_000, "cuda": 4_000_000_000}
BATCH = 1


def speed_stage(run: Run) -> SpeedComparison | None:
    """Time the dense model beside the result; None where it was not asked for, or another program runs the result.

    Nor are large models timed here: `secateur evaluate EXPORTED --against DENSE --speed` does that.
    """
    config, original = run.config, run.inputs.original
    most = MOST_PARAMETERS.get(original.model.device.type, 0)
    if not config.evaluation.speed or config.export.target == "gguf" or config.model.device_map is not None:
        return None
    if original.model.num_parameters() > most:
        return None
    if original.family.is_rewritten and config.model.in_memory:
        return None  # the run's modules are not those of its users, and there is nothing to load
    evaluation = config.evaluation
    with stage_clock("speed", run.listener, evaluation.speed_repeats) as clock:
        models = [_dense(run), _loaded(run, run.result_name, str(run.folder.exported))]
        speed = compare_speed(
            models,
            evaluation.speed_prompt_tokens,
            evaluation.speed_new_tokens,
            BATCH,
            evaluation.speed_repeats,
            derive_seed(config.seed, "speed"),
            advance=clock.advance,
        )
        ratio = speed.ratios[0]
        clock.note = f"prefill {ratio.prefill.median:.2f} of the dense model's time, decoding {ratio.decode.median:.2f}"
    run.store.end_stage("speed", clock.seconds, speed.model_dump(mode="json"))
    return speed


def _dense(run: Run) -> TimedModel:
    """Give the dense model with the modules that its users have: the run's own, or where those are others a new one."""
    given, original = run.config.model, run.inputs.original
    path = str(decoder_path()) if given.name == "demo" else given.name
    if original.family.is_rewritten:
        return _loaded(run, "dense", path)
    size = parameter_bytes if given.in_memory else partial(weights_bytes, path)
    return TimedModel("dense", original.model, size(original.model, original.stored_dtype))


def _loaded(run: Run, name: str, path: str) -> TimedModel:
    computed = str(run.inputs.original.model.config.dtype).removeprefix("torch.")
    given = run.config.model
    revision, trusted = (given.revision, given.trust_remote_code) if name == "dense" else (None, False)
    model, _, stored = load_causal_model(path, given.device, computed, revision, trusted)
    return TimedModel(name, model.requires_grad_(False), weights_bytes(path, model, stored))
