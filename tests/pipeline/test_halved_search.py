"""Evolutionary search on growing token counts."""

from collections import Counter
from pathlib import Path

import pytest
from small_runs import Finished, Invoke, Moment, assert_refused, finish, kill_at, stored_measurements

from secateur.config import RunConfig, build_config
from secateur.pipeline import resume_pipeline


@pytest.fixture(scope="module")
def halving(small_config: RunConfig) -> RunConfig:
    changes = {
        "search": {"method": "evolutionary", "halving": True, "measurements": 30},
        "data": {"selection_tokens": 16 * 32, "sequence_length": 32},
        "pruning": {"reconstruction": "least_squares"},
    }
    return build_config([small_config.model_dump(mode="json"), changes])


@pytest.fixture(scope="module")
def halved(halving: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(halving, tmp_path_factory.mktemp("halved") / "run")


def on_all_tokens(run: Finished) -> dict[str, float | None]:
    """KL by architecture, of what was measured whole, as the uniform start was."""
    whole = run.measurements[0].protocol
    return {each.architecture.key: each.kl for each in run.measurements if each.protocol == whole}


def test_survivors_were_measured_on_an_eighth_a_quarter_half_and_all_tokens(halved: Finished) -> None:
    by_architecture = Counter(measurement.architecture.key for measurement in halved.measurements)
    assert max(by_architecture.values()) == 4
    assert all(key in on_all_tokens(halved) for key, count in by_architecture.items() if count == 4)
    by_protocol = Counter(measurement.protocol for measurement in halved.measurements)
    assert len(by_protocol) == 4
    assert by_protocol[halved.measurements[0].protocol] == len(on_all_tokens(halved))
    assert max(by_protocol.values()) > 2 * len(on_all_tokens(halved))


def test_the_choice_is_the_best_of_those_measured_whole(halved: Finished) -> None:
    assert halved.report.choice.kl == min(kl for kl in on_all_tokens(halved).values() if kl is not None)


@pytest.mark.parametrize("done", [5, 40])
def test_killed_it_goes_on_and_chooses_the_same(
    halving: RunConfig, halved: Finished, tmp_path: Path, done: int
) -> None:
    root = tmp_path / "run"
    kill_at(halving, root, Moment("advanced", done, "search"))
    before = stored_measurements(root)
    assert resume_pipeline(root).choice == halved.report.choice
    assert stored_measurements(root)[: len(before)] == before
    assert len(stored_measurements(root)) == len(halved.measurements)


def test_other_methods_refuse_it(invoke: Invoke, text_file: Path) -> None:
    result = invoke("prune", "demo", "--data", text_file, "--out", "run", "--set", "search.halving=true")
    assert_refused(result, "search.halving=true", "evolutionary", "got secateur")
