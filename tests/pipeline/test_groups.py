"""A run with groups of text, its Pareto front, and another point of it exported without another search."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import Finished, Invoke, assert_refused, finish, stored_measurements
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from secateur.config import RunConfig, resolve
from secateur.data import Role
from secateur.demo import generate_documents
from secateur.inputs import load_inputs
from secateur.report.front import Front
from secateur.stages.front import read_front

SECTIONS = {"early": slice(0, 700), "late": slice(700, 1400)}


@pytest.fixture(scope="module")
def grouped_config(small_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Two groups: the shorter and the longer half of the generator's documents."""
    folder = tmp_path_factory.mktemp("groups")
    documents = sorted((document.text for document in generate_documents(1400, seed=4)), key=len)
    groups = {}
    for name, part in SECTIONS.items():
        path = folder / f"{name}.txt"
        path.write_text("\n<|endoftext|>\n".join(documents[part]))
        groups[name] = str(path)
    data = small_config.data.model_copy(update={"groups": groups, "group_tokens": 512})
    search = small_config.search.model_copy(update={"rounds": 1, "measurements": 30})
    return resolve(small_config.model_copy(update={"data": data, "search": search}))


@pytest.fixture(scope="module")
def grouped(grouped_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secateur.search.nsga.GENERATIONS", 4)
        return finish(grouped_config, tmp_path_factory.mktemp("grouped") / "run")


@pytest.fixture(scope="module")
def front(grouped: Finished) -> Front:
    return read_front(grouped.root)


def test_every_row_has_a_perplexity_per_group_and_its_disparity(grouped: Finished) -> None:
    report = grouped.report
    for row in report.rows:
        assert set(row.groups) == set(SECTIONS)
    assert report.row("dense").disparity == pytest.approx(0, abs=1e-6)
    assert (report.row("secateur").disparity or 0) > 0
    assert {name for name in report.fingerprints if name.startswith("group")} == {
        f"group {name}, {role}" for name in SECTIONS for role in ("selection", "evaluation")
    }


def test_measurements_hold_the_loss_of_each_group(grouped: Finished) -> None:
    for measurement in stored_measurements(grouped.root):
        assert set(measurement.targets) == {"loss early", "loss late"}


def test_the_front_is_what_no_measurement_beats_best_quality_first(grouped: Finished, front: Front) -> None:
    assert list(front.objectives) == ["quality", "disparity"]
    assert [point.number for point in front.points] == list(range(1, len(front.points) + 1))
    values = [tuple(point.objectives.values()) for point in front.points]
    assert values == sorted(values)
    for measurement in stored_measurements(grouped.root):
        ratios = [measurement.targets[f"loss {name}"] - loss for name, loss in front.dense_losses.items()]
        quality, disparity = sum(ratios) / 2, max(ratios) - min(ratios)
        assert any(point[0] <= quality + 1e-9 and point[1] <= disparity + 1e-9 for point in values)


def test_the_choice_is_the_least_disparity_within_its_price_of_what_was_made(grouped: Finished, front: Front) -> None:
    choice, chosen = grouped.report.choice, next(point for point in front.points if point.chosen)
    assert chosen.architecture == choice.architecture
    made = {point.architecture: point.objectives for point in choice.made}
    assert 1 <= len(made) == choice.num_finalists <= 3
    assert front.points[0].architecture in made, "what the price is over"
    least = min(point["quality"] for point in made.values())
    allowed = [point for point in made.values() if point["quality"] <= least + math.log(1.02)]
    assert made[chosen.architecture]["disparity"] == min(point["disparity"] for point in allowed)
    traded = grouped.report.traded
    assert traded is not None
    assert traded.disparity == made[chosen.architecture]["disparity"]
    assert traded.mean_perplexity_ratio <= 1.02


@torch.no_grad()
def test_what_the_report_says_was_traded_is_so(grouped: Finished, front: Front, grouped_config: RunConfig) -> None:
    """The selection windows of the groups, by the model that was exported."""
    inputs = load_inputs(grouped_config)
    folder = grouped.root / "exported"
    exported = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)  # which this run has just written
    ratios = []
    for name, dense in front.dense_losses.items():
        tokens = inputs.groups[name][Role.SELECTION].tokens
        logits = exported(input_ids=tokens).logits[:, :-1].float()
        ratios.append(float(cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())) - dense)
    traded = grouped.report.traded
    assert traded is not None
    assert traded.disparity == pytest.approx(max(ratios) - min(ratios), abs=1e-4)


def test_a_run_with_one_objective_has_a_front_of_quality_and_parameters(finished: Finished) -> None:
    front = read_front(finished.root)
    assert list(front.objectives) == ["quality", "decoder_parameters"]
    assert front.points[0].kl == min(m.kl for m in finished.measurements if m.kl is not None)
    assert [point.architecture for point in front.points if point.chosen] == [finished.report.choice.architecture]


@pytest.fixture(scope="module")
def copied(grouped: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in a folder of its own, so that exports do not change the shared one."""
    return Path(shutil.copytree(grouped.root, tmp_path_factory.mktemp("copied") / "run"))


def test_the_chosen_point_exported_again_has_the_same_weights_without_a_search(
    invoke: Invoke,
    copied: Path,
    front: Front,
    grouped: Finished,
) -> None:
    number = next(point.number for point in front.points if point.chosen)
    before = (copied / "run.db").read_bytes()
    result = invoke("export", copied, "--point", number)
    assert result.exit_code == 0, result.output
    assert f"{grouped.report.row('secateur').perplexity.value:.4f}" in result.stdout
    assert (copied / "run.db").read_bytes() == before
    first, second = (
        load_file(folder / "model.safetensors") for folder in (copied / "exported", copied / f"exported-{number}")
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_point_is_exported_with_a_card_of_its_own(
    invoke: Invoke,
    copied: Path,
    front: Front,
    tmp_path: Path,
) -> None:
    other = next(point for point in front.points if not point.chosen)
    out = tmp_path / "other"
    result = invoke("export", copied, "--point", other.number, "--out", out)
    assert result.exit_code == 0, result.output
    assert str(out) in result.stdout
    assert "disparity" in (out / "README.md").read_text()
    config = json.loads((out / "config.json").read_text())
    widths = [layer.ffn_width for layer in other.architecture.layers if layer.kv_heads or layer.ffn_width]
    shipped = [layer.get("intermediate_size", 0) for layer in config.get("per_layer_config", {}).values()]
    assert shipped in (widths, [])
    assert_refused(invoke("export", copied, "--point", other.number, "--out", out), "is not empty")


def test_a_point_that_is_not_there_is_refused_with_the_range(
    invoke: Invoke,
    copied: Path,
    front: Front,
) -> None:
    for number in (0, len(front.points) + 1):
        assert_refused(invoke("export", copied, "--point", number), f"1 to {len(front.points)}")


def test_an_unfinished_run_has_nothing_to_export(
    invoke: Invoke,
    grouped: Finished,
    tmp_path: Path,
) -> None:
    assert_refused(invoke("export", tmp_path / "nothing", "--point", 1), "holds no run")
    begun = Path(shutil.copytree(grouped.root, tmp_path / "begun"))
    (begun / "report.json").unlink()
    assert_refused(invoke("export", begun, "--point", 1), "not finished", "secateur resume")


def test_show_lists_the_front_with_the_numbers_to_export_by(invoke: Invoke, grouped: Finished, front: Front) -> None:
    shown = invoke("show", grouped.root)
    assert shown.exit_code == 0
    for word in ("Pareto front", "disparity", "chosen", "worse mean perplexity than the best-quality", "groups"):
        assert word in shown.stdout


REFUSED = {
    "one group": (("--groups", "a=TEXT"), ("one group, 'a'",)),
    "no name": (("--groups", "TEXT"), ("NAME=FILE",)),
    "the same name twice": (("--groups", "a=TEXT", "--groups", "a=TEXT"), ("the name is taken",)),
    "missing text": (("--groups", "a=absent.txt", "--groups", "b=TEXT"), ("'absent.txt' does not exist",)),
    "disparity of nothing": (("--set", "search.objectives=[quality,disparity]"), ("there are no groups",)),
    "unknown objective": (("--set", "search.objectives=[quality,flops]"), ("'flops'", "flops_per_token")),
    "no quality": (("--set", "search.objectives=flops_per_token"), ("must have 'quality'",)),
    "another method": (
        ("--set", "search.objectives=[quality,flops_per_token]", "--set", "search.method=random"),
        ("search.method=secateur", "random"),
    ),
    "least disparity of nothing": (("--set", "search.choose=least_disparity"), ("needs 'disparity'",)),
    "floor above the budget": (
        ("--set", "search.objectives=[quality,flops_per_token]", "--set", "search.smallest_keep=0.9"),
        ("smallest_keep=0.9", "below the budget"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_weighed_is_refused_before_anything_is_written(
    invoke: Invoke,
    small_config: RunConfig,
    tmp_path: Path,
    name: str,
) -> None:
    arguments, words = REFUSED[name]
    text = small_config.data.sources[0]
    given = [argument.replace("TEXT", text) for argument in arguments]
    length = ("--set", "data.sequence_length=32")
    result = invoke("prune", small_config.model.name, "--data", text, *given, *length, "--out", tmp_path / "out")
    assert_refused(result, *words)
    assert not (tmp_path / "out").exists()
