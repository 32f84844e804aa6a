"""The same result anywhere: measured by this process or by others, killed or not, a run ends alike."""

import os
import signal
from pathlib import Path

import psutil
import pytest
from small_runs import Finished, Moment, assert_same, finish, kill_at

from secateur.config import RunConfig, build_config
from secateur.errors import ConfigError
from secateur.execution.settings import Execution
from secateur.pipeline import resume_pipeline, run_pipeline
from secateur.runs.progress import Event, StageAdvanced

TWO = Execution(executor="processes", workers=2, batch_candidates=4)


@pytest.fixture(scope="module")
def by_two(small_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The run of `finished`, measured by two processes."""
    return finish(small_config, tmp_path_factory.mktemp("workers") / "run", TWO)


def test_processes_measure_what_this_one_does_and_choose_the_same(finished: Finished, by_two: Finished) -> None:
    assert_same(finished, by_two)


def test_progress_is_told_per_candidate_whoever_measured_it(by_two: Finished) -> None:
    told = [each for each in by_two.events if isinstance(each, StageAdvanced) and each.stage == "search"]
    assert [each.done for each in told] == list(range(1, 35))


def test_workers_are_gone_when_the_run_is(by_two: Finished) -> None:
    assert by_two.report
    assert not [each for each in psutil.Process().children() if "secateur.execution.worker" in each.cmdline()]


@pytest.mark.slow
def test_every_worker_killed_in_the_middle_changes_nothing(
    small_config: RunConfig, finished: Finished, tmp_path: Path
) -> None:
    killed: list[int] = []
    events: list[Event] = []

    def kill(event: Event) -> None:
        events.append(event)
        if isinstance(event, StageAdvanced) and event.stage == "search" and event.done in (6, 20):
            for child in psutil.Process().children():
                if "secateur.execution.worker" in child.cmdline():
                    os.kill(child.pid, signal.SIGKILL)
                    killed.append(child.pid)

    report = run_pipeline(small_config, tmp_path / "run", kill, execution=TWO)
    assert len(killed) >= 3
    assert_same(finished, Finished(report, tmp_path / "run", events))


@pytest.mark.slow
def test_calibration_by_parts_leaves_the_same_bank_bit_by_bit(small_config: RunConfig, tmp_path: Path) -> None:
    """Sums over parts of the set do not depend on who goes through a part."""
    settings = {"evaluation": {"batch_tokens": 64}}
    config = build_config([small_config.model_dump(mode="json"), settings])
    finish(config, tmp_path / "here")
    by_two = finish(config, tmp_path / "there", TWO)
    banks = [sorted((tmp_path / run / "bank").rglob("*.safetensors")) for run in ("here", "there")]
    assert [path.name for path in banks[0]] == [path.name for path in banks[1]] != []
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(*banks, strict=True))
    told = [each.done for each in by_two.events if isinstance(each, StageAdvanced) and each.stage == "calibrate"]
    assert told == list(range(1, len(told) + 1))
    assert not (tmp_path / "there" / "calibration").exists()


@pytest.mark.slow
def test_rounds_that_do_not_wait_measure_as_many_and_nothing_twice(small_config: RunConfig, tmp_path: Path) -> None:
    settings = {"search": {"wait_for": 0.5, "rounds": 3}}
    config = build_config([small_config.model_dump(mode="json"), settings])
    late = finish(config, tmp_path / "run", TWO)
    keys = [each.architecture.key for each in late.measurements]
    assert len(keys) == len(set(keys)) == 34
    told = [each for each in late.events if isinstance(each, StageAdvanced) and each.stage == "search"]
    assert len(told) == 34


def test_a_run_goes_on_with_another_executor(small_config: RunConfig, finished: Finished, tmp_path: Path) -> None:
    root = tmp_path / "run"
    kill_at(small_config, root, Moment("advanced", 10, "search"))
    assert_same(finished, Finished(resume_pipeline(root, execution=TWO), root, []))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"search": {"method": "evolutionary", "halving": True}},
        {"budget": {"keep": None, "max_drop": "kl=0.5"}},
        {"search": {"reconstructed_share": 0.5, "reconstructed_tokens": 512}},
        {"space": {"hidden": True, "hidden_levels": 2}},
    ],
    ids=["halving", "drop", "reconstructed", "hidden"],
)
def test_every_kind_of_measurement_is_the_same_from_workers(
    small_config: RunConfig, tmp_path: Path, settings: dict[str, dict[str, object]]
) -> None:
    config = build_config([small_config.model_dump(mode="json"), settings])
    assert_same(finish(config, tmp_path / "here"), finish(config, tmp_path / "there", TWO))


@pytest.mark.slow
def test_losses_of_groups_are_the_same_from_workers(small_config: RunConfig, text_file: Path, tmp_path: Path) -> None:
    groups = {name: tmp_path / f"{name}.txt" for name in ("lower", "upper")}
    groups["lower"].write_text(text_file.read_text().lower())
    groups["upper"].write_text(text_file.read_text().upper())
    settings = {"data": {"groups": {name: str(path) for name, path in groups.items()}, "group_tokens": 512}}
    config = build_config([small_config.model_dump(mode="json"), settings])
    assert_same(finish(config, tmp_path / "here"), finish(config, tmp_path / "there", TWO))


def test_what_is_in_memory_is_refused_before_anything_is_written(small_config: RunConfig, tmp_path: Path) -> None:
    data = small_config.data.model_copy(update={"sources": ("memory:0123",)})
    config = small_config.model_copy(update={"data": data})
    with pytest.raises(ConfigError, match=r"executor=processes: model and text must be in files"):
        run_pipeline(config, tmp_path / "run", execution=TWO)
    assert not (tmp_path / "run").exists()
