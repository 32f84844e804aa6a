"""Runs that begin with the optimum of losses that are estimated and not measured."""

from pathlib import Path

import pytest
from small_runs import Moment, run_until, stored_measurements

from secateur.config import RunConfig
from secateur.runs.folder import RunFolder
from secateur.runs.store import RunStore
from secateur.stages.calibrate import Allocated


@pytest.fixture
def asking(small_config: RunConfig) -> RunConfig:
    return small_config.model_copy(
        update={"search": small_config.search.model_copy(update={"estimated_optimum": True})}
    )


@pytest.mark.parametrize("asked", [True, False])
def test_it_is_measured_where_it_was_asked_for(
    asking: RunConfig, small_config: RunConfig, tmp_path: Path, asked: bool
) -> None:
    run_until(asking if asked else small_config, tmp_path / "run", Moment("advanced", 30, "search"))
    folder = RunFolder(tmp_path / "run")
    with RunStore(folder.database) as store:
        calibrated = store.stage("calibrate")
        assert calibrated is not None
        begun = Allocated.model_validate(calibrated.payload).heuristics
    assert ("estimated" in begun) == asked
    assert not folder.calibration.exists(), "what estimates put aside goes with the statistics"
    if asked:
        measured = {measurement.architecture.key for measurement in stored_measurements(folder.root)}
        assert begun["estimated"].key in measured
