"""Whole runs on a GPU: what a CPU measures, by one process or two, trained in full precision and on four bits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import Finished, Moment, assert_same, finish, kill_at

from secateur.config import RunConfig, build_config
from secateur.doctor import diagnose
from secateur.execution.settings import Execution
from secateur.pipeline import resume_pipeline

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]
UNIFORM = {"search": {"method": "uniform"}}
RECOVERED = UNIFORM | {"recovery": {"tokens": 4096, "batch_windows": 8, "judgements": 4}}


def changed(config: RunConfig, *settings: dict[str, Any]) -> RunConfig:
    return build_config([config.model_dump(mode="json"), *settings])


@pytest.fixture(scope="module")
def gpu_config(small_config: RunConfig) -> RunConfig:
    return changed(small_config, {"model": {"device": "cuda"}})


@pytest.fixture(scope="module")
def on_gpu(gpu_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(gpu_config, tmp_path_factory.mktemp("gpu") / "run")


def test_it_measures_what_a_cpu_does(
    small_config: RunConfig, on_gpu: Finished, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What a round proposes follows from what was measured, to the last digit, so only some candidates are the same."""
    on_cpu = finish(changed(small_config, {"model": {"device": "cpu"}}), tmp_path_factory.mktemp("cpu") / "run")
    expected = {each.architecture.key: each for each in on_cpu.measurements}
    found = {each.architecture.key: each for each in on_gpu.measurements}
    both = expected.keys() & found.keys()
    assert len(both) >= 10
    for key in both:
        assert found[key].kl == pytest.approx(expected[key].kl, rel=1e-3, abs=1e-5)
        assert found[key].loss == pytest.approx(expected[key].loss, rel=1e-4)
    one, other = on_cpu.report, on_gpu.report
    assert other.row("dense").perplexity.value == pytest.approx(one.row("dense").perplexity.value, rel=1e-4)
    assert other.row("uniform").perplexity.value == pytest.approx(one.row("uniform").perplexity.value, rel=1e-3)


def test_two_processes_share_a_gpu_and_choose_the_same(gpu_config: RunConfig, on_gpu: Finished, tmp_path: Path) -> None:
    assert_same(
        on_gpu, finish(gpu_config, tmp_path / "run", Execution(executor="processes", workers=2, batch_candidates=4))
    )


def test_a_killed_run_ends_as_one_that_nothing_disturbed(
    gpu_config: RunConfig, on_gpu: Finished, tmp_path: Path
) -> None:
    kill_at(gpu_config, tmp_path / "run", Moment("advanced", 20, "search"))
    assert_same(on_gpu, Finished(resume_pipeline(tmp_path / "run"), tmp_path / "run", []))


def test_a_model_that_accelerate_places_is_measured_alike(
    small_config: RunConfig, on_gpu: Finished, tmp_path: Path
) -> None:
    placed = changed(small_config, {"model": {"device": "auto", "device_map": "auto"}})
    assert_same(on_gpu, finish(placed, tmp_path / "run"))


def test_bfloat16_ranks_candidates_as_float32_does(gpu_config: RunConfig, on_gpu: Finished, tmp_path: Path) -> None:
    coarse = finish(changed(gpu_config, {"model": {"dtype": "bfloat16"}}), tmp_path / "run")
    dense = [each.report.row("dense").perplexity.value for each in (on_gpu, coarse)]
    assert dense[1] == pytest.approx(dense[0], rel=0.02)
    assert dense[1] != dense[0]
    exact = {each.architecture.key: each.kl for each in on_gpu.measurements}
    both = [each for each in coarse.measurements if each.architecture.key in exact]
    pairs = torch.tensor([(each.kl, exact[each.architecture.key]) for each in both])
    assert len(pairs) >= 10
    assert torch.corrcoef(pairs.T)[0, 1] > 0.9


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_training_on_a_gpu_repairs(gpu_config: RunConfig, tmp_path: Path, method: str, dtype: str) -> None:
    if method == "qlora":
        pytest.importorskip("bitsandbytes")
    settings = {"model": {"dtype": dtype}, "recovery": {"method": method}}
    report = finish(changed(gpu_config, RECOVERED, settings), tmp_path / "run").report
    assert report.row("recovered").perplexity.value < report.row("secateur").perplexity.value
    assert report.export.max_logit_difference is not None


def test_speed_and_memory_are_those_of_the_gpu(gpu_config: RunConfig, tmp_path: Path) -> None:
    settings = {"evaluation": {"speed": True, "speed_repeats": 5, "speed_prompt_tokens": 32, "speed_new_tokens": 4}}
    speed = finish(changed(gpu_config, UNIFORM, settings), tmp_path / "run").report.speed
    assert speed is not None
    assert speed.device == torch.cuda.get_device_name()
    assert "max_memory_allocated" in str(speed.memory_measure)
    for model in speed.models:
        assert model.peak_memory_bytes is not None
        assert model.peak_memory_bytes > model.weights_bytes
        assert model.prefill_ms.median > 0


def test_the_doctor_names_the_gpu() -> None:
    assert any(torch.cuda.get_device_name() in device.name for device in diagnose().devices)
