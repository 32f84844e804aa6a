from synthetic_run import SyntheticRun

from secateur.report.recorded import read_recorded


def test_what_the_choice_is_among_is_told_from_what_was_measured_before(tmp_path):
    run = SyntheticRun(count=60, num_layers=4)
    run.finish(tmp_path)
    recorded = read_recorded(tmp_path)
    assert [m.architecture for m in recorded.compared] == run.architectures[30:]
    assert [m.architecture for m in recorded.earlier] == run.architectures[:30]
    assert recorded.best == run.best
    assert recorded.chosen == run.best.architecture
    assert recorded.kept(run.architectures[3]) == 1 - run.candidates[3].parameter_reduction


def test_a_run_that_has_not_ended_tells_what_it_has(tmp_path):
    run = SyntheticRun(count=60, num_layers=4)
    run.begin(tmp_path)
    recorded = read_recorded(tmp_path)
    assert recorded.report is None
    assert recorded.rows == ()
    assert recorded.chosen == run.best.architecture, "the best so far"
    assert recorded.dense.widths == (8, 11_008) * 4
    assert recorded.rounds == run.rounds()
    assert {fit.reconstructed for fit in recorded.fits} == {False, True}
    assert recorded.errors.by_width[1][11_008] == 0
    assert "begun" not in recorded.seconds
