import io

import pytest
from rich.console import Console

from secateur.config import RunConfig, to_yaml
from secateur.errors import RunFolderError
from secateur.model.shape import BlockKind
from secateur.report.show import show_run
from secateur.runs.folder import RunFolder
from secateur.runs.store import RunStore
from secateur.space.architecture import Architecture
from secateur.space.candidate import Candidate, Measurement
from secateur.space.smaller_space import Removed


@pytest.fixture
def root(tmp_path, report):
    """An unfinished run: two rounds of stages, three candidates, of which one failed and one is not measured yet."""
    RunFolder(tmp_path).config.write_text(to_yaml(RunConfig()))
    with RunStore(RunFolder(tmp_path).database) as store:
        store.end_stage("load", 1.25, {})
        store.end_stage("calibrate", 20.5)
        store.end_stage("round 1", 0.0, report.rounds[0].model_dump(mode="json"))
        batch = [
            Candidate(
                architecture=Architecture.from_widths((4, width, 3, 24, 2, 8)),
                origin=origin,
                round=0,
                parameter_reduction=0.25,
            )
            for width, origin in ((40, "additive"), (32, "neighbour"), (24, "sampled"))
        ]
        store.add_candidates([(c.architecture.key, c.round, c.model_dump_json()) for c in batch])
        for candidate, kl in zip(batch, (0.5, None, 0.25), strict=True):
            outcome = {"status": "measured", "kl": kl, "loss": 2.0} if kl else {"status": "failed", "reason": "kl=nan"}
            measurement = Measurement(architecture=candidate.architecture, protocol="p", seconds=0.1, **outcome)
            store.add_measurement(candidate.architecture.key, "p", measurement.model_dump_json())
    return tmp_path


def printed(root, top=10):
    console = Console(file=io.StringIO(), width=220)
    for part in show_run(root, top):
        console.print(part, soft_wrap=True)
    return console.file.getvalue()


def test_an_unfinished_run_shows_what_there_is_and_how_to_go_on(root):
    text = printed(root)
    assert "calibrate" in text
    assert "20.5" in text
    assert "best of 2 measured candidates (3 proposed, 1 failed)" in text
    assert text.index("0.2500") < text.index("0.5000"), "the best comes first"
    assert "4/24 3/24 2/8" in text
    assert f"secateur resume {root}" in text


def test_rounds_stand_in_a_table_of_their_own(root):
    text = printed(root)
    assert "0.810" in text
    assert "round 1" not in text


def test_no_more_candidates_are_listed_than_asked_for(root):
    text = printed(root, top=1)
    assert "0.2500" in text
    assert "0.5000" not in text


def test_what_was_measured_outside_the_budget_to_learn_from_is_not_among_the_best(root):
    """A single module narrowed, or a training pair of the paper, loses less than anything at the budget."""
    with RunStore(RunFolder(root).database) as store:
        for width, origin in ((47, "single"), (46, "paper")):
            architecture = Architecture.from_widths((4, 48, 4, width, 4, 48))
            candidate = Candidate(architecture=architecture, origin=origin, round=0, parameter_reduction=0.01)
            store.add_candidates([(architecture.key, 0, candidate.model_dump_json())])
            probe = Measurement(
                architecture=architecture, protocol="p", seconds=0.1, status="measured", kl=0.001, loss=1
            )
            store.add_measurement(architecture.key, "p", probe.model_dump_json())
    text = printed(root)
    assert "best of 2 measured candidates" in text
    assert "0.0010" not in text


def test_what_the_papers_predictor_reported_is_no_stage(root):
    with RunStore(RunFolder(root).database) as store:
        store.end_stage("paper", 0.0, {})
    assert not [line for line in printed(root).splitlines() if line.strip().startswith("paper")]


def test_a_finished_run_ends_with_the_final_table(root, report):
    RunFolder(root).report.write_text(report.model_dump_json())
    text = printed(root)
    assert "Secateur" in text
    assert "secateur resume" not in text


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="holds no run"):
        show_run(tmp_path, 10)
    assert list(tmp_path.iterdir()) == [], "looking leaves no database behind"


def test_what_left_the_search_space_is_shown_with_its_reason(root, report):
    assert "left the search space" not in printed(root)
    removed = Removed(
        module=3, layer=1, kind=BlockKind.MLP, width=0, order=1, mean_effect=0.31, low=0.12, num_samples=40, round=2
    )
    second = report.rounds[0].model_copy(update={"round": 2, "removed": (removed,)})
    with RunStore(RunFolder(root).database) as store:
        store.end_stage("round 2", 0.0, second.model_dump(mode="json"))
    text = printed(root)
    assert "left the search space" in text
    assert "layer 1 mlp at 0" in text
    assert "0.310" in text


def test_a_round_whose_predictor_was_not_trusted_says_what_was_measured_instead(root, report):
    fallen = report.rounds[0].model_copy(update={"round": 2, "fell_back": True})
    with RunStore(RunFolder(root).database) as store:
        store.end_stage("round 2", 0.0, fallen.model_dump(mode="json"))
    assert "none: neighbours" in printed(root)


def test_whole_experts_are_called_so(root):
    assert "KV heads / FFN width per layer" in printed(root)
    whole = RunConfig().space.model_copy(update={"experts": "whole"})
    RunFolder(root).config.write_text(to_yaml(RunConfig().model_copy(update={"space": whole})))
    assert "KV heads / experts per layer" in printed(root)
