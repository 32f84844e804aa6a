"""The comparison: every method beside every other, resumable, at one parameter count."""

import json
from pathlib import Path

import pytest
import torch
from small_runs import Moment, kill_at
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from secateur.cli import app
from secateur.comparison import resume_comparison, run_comparison
from secateur.comparison_folder import READERS, ComparisonFolder, read_comparison
from secateur.comparison_plan import ComparisonConfig, plan_cells
from secateur.config import RunConfig, SearchConfig, SpaceConfig
from secateur.errors import ConfigError, RunFolderError
from secateur.presets import PRESETS
from secateur.report.comparison import Comparison, comparison_markdown, values_of, verdict_lines
from secateur.runs.progress import Event, StageEnded

METHODS = ("llm-pruner", "flap", "evopress", "secateur")


@pytest.fixture(scope="session")
def compared_config(small_config: RunConfig, text_file: Path) -> ComparisonConfig:
    base = small_config.model_copy(
        update={"search": small_config.search.model_copy(update={"measurements": 26, "rounds": 1, "finalists": 2})}
    )
    return ComparisonConfig(
        base=base, methods=METHODS, keeps=(0.7,), seeds=(0, 1), texts={"same": str(text_file)}, text_tokens=640
    )


@pytest.fixture(scope="session")
def folder(compared_config: ComparisonConfig, tmp_path_factory: pytest.TempPathFactory) -> ComparisonFolder:
    root = tmp_path_factory.mktemp("compared") / "comparison"
    run_comparison(compared_config, root)
    return ComparisonFolder(root)


@pytest.fixture(scope="session")
def comparison(folder: ComparisonFolder) -> Comparison:
    record = read_comparison(folder)
    assert record is not None
    return record


@pytest.fixture(scope="session")
def one_seed(compared_config: ComparisonConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("seed") / "1"
    run_comparison(compared_config.model_copy(update={"seeds": (1,)}), root)
    return root


@pytest.fixture(scope="session")
def deep_folder(decoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deep")
    config = LlamaConfig.from_pretrained(decoder_folder)
    config.num_hidden_layers = 5
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(decoder_folder).save_pretrained(folder)
    return folder


def without_times(comparison: Comparison) -> list[dict[str, object]]:
    return [cell.model_dump(exclude={"seconds"}) for cell in sorted(comparison.cells, key=lambda cell: cell.name)]


class TestPlan:
    def test_a_method_is_run_as_published_and_with_the_common_reconstruction_and_without(self, compared_config):
        _, rows = plan_cells(compared_config)
        assert rows["evopress"] == {
            "published": "evolutionary-obs_plain-least_squares",
            "none": "evolutionary-obs-none",
            "default": "evolutionary-obs-sequential",
        }

    def test_a_method_about_the_order_keeps_its_order(self, compared_config):
        _, rows = plan_cells(compared_config)
        assert set(rows["llm-pruner"].values()) == {"uniform-taylor-none", "uniform-taylor-sequential"}

    def test_cells_that_come_to_the_same_are_made_once(self, compared_config):
        plans, rows = plan_cells(compared_config)
        prefixes = {prefix for variants in rows.values() for prefix in variants.values()}
        assert len(plans) == len({plan.name for plan in plans}) == 2 * len(prefixes)

    def test_the_papers_pipeline_gets_as_many_measurements_as_others(self, compared_config):
        config = compared_config.model_copy(update={"methods": ("ji2023",)})
        plans, _ = plan_cells(config)
        scale = plans[0].config.paper.scale
        assert round(400 * scale) + round(125 * scale) + 18 == pytest.approx(26, abs=1)

    def test_all_presets_can_be_planned(self, compared_config):
        _, rows = plan_cells(compared_config.model_copy(update={"methods": tuple(PRESETS)}))
        assert set(rows) == set(PRESETS)

    def test_an_unknown_method_suggests_the_nearest(self, compared_config):
        with pytest.raises(ConfigError, match="did you mean 'evopress'"):
            plan_cells(compared_config.model_copy(update={"methods": ("evopres",)}))


class TestCells:
    def test_every_cell_has_figures(self, comparison):
        assert comparison.finished
        for cell in comparison.cells:
            assert cell.failure is None
            assert cell.perplexity is not None
            assert cell.texts.keys() == {"same"}

    def test_parameter_counts_agree(self, comparison, compared_config):
        """The band of this small model is wider than the default's 0.3 %."""
        counts = [cell.decoder_parameters for cell in comparison.cells]
        ceiling = 0.7 * comparison.dense_decoder_parameters
        assert max(counts) <= ceiling
        assert min(counts) >= ceiling * (1 - compared_config.base.budget.band)

    def test_searching_methods_measure_equally_often(self, comparison):
        counts = {cell.num_measurements for cell in comparison.cells if cell.method in ("secateur", "evolutionary")}
        assert counts == {26}

    def test_the_best_so_far_never_rises_and_ends_at_the_best(self, comparison):
        for cell in comparison.cells:
            assert list(cell.best_so_far) == sorted(cell.best_so_far, reverse=True)
        searched = [cell for cell in comparison.cells if cell.best_so_far and cell.reconstruction != "sequential"]
        assert searched
        for cell in searched:
            assert cell.best_so_far[-1] == pytest.approx(cell.selection_kl, abs=1e-4)

    def test_seeds_share_their_text(self, comparison):
        assert len({cell.perplexity.num_windows for cell in comparison.cells}) == 1

    def test_a_budget_that_a_method_cannot_meet_is_a_failed_cell(self, compared_config, deep_folder, tmp_path):
        """Of five layers LLM-Pruner's middle leaves the first dense, which alone is more than 0.155 of all."""
        base = compared_config.base
        base = base.model_copy(update={"model": base.model.model_copy(update={"name": str(deep_folder)})})
        config = ComparisonConfig(base=base, methods=("llm-pruner-middle", "shortgpt"), keeps=(0.155,), seeds=(0,))
        compared = run_comparison(config, tmp_path / "low")
        by_method = {cell.method: cell for cell in compared.cells}
        assert "leaves 1 of 5 layers dense" in by_method["uniform_middle"].failure
        assert by_method["block_influence"].perplexity is not None
        row = next(line for line in comparison_markdown(compared).splitlines() if "middle layers" in line)
        assert row.count("cannot") == 3


class TestOutput:
    def test_files_are_there(self, folder):
        assert folder.picture.read_bytes().startswith(b"\x89PNG")
        assert json.loads(folder.record.read_text())["finished"] is True
        assert "| EvoPress |" in folder.table.read_text()

    def test_no_path_of_this_machine_gets_into_the_record(self, folder, compared_config):
        text = folder.record.read_text() + folder.table.read_text()
        assert str(Path(compared_config.base.model.name).parent) not in text

    def test_verdicts_compare_medians(self, comparison):
        lines = verdict_lines(comparison)
        own = sorted(values_of(comparison.of("secateur", "default", 0.7)))
        assert f"Secateur {sum(own) / 2:.4g}" in lines[0]
        assert "of uniform LLM-Pruner" in lines[0]

    def test_show_prints_the_table(self, folder):
        shown = CliRunner().invoke(app, ["show", str(folder.root)])
        assert shown.exit_code == 0
        assert "EvoPress" in shown.output

    def test_show_reads_a_cell_like_any_run(self, folder, comparison):
        cell = next(cell for cell in comparison.cells if cell.method == "secateur")
        shown = CliRunner().invoke(app, ["show", str(folder.cell(cell.name).root)])
        assert shown.exit_code == 0, shown.output
        assert "measured candidates" in shown.output


class TestResume:
    def test_a_finished_comparison_is_not_made_again(self, folder, comparison):
        def complain(event: Event) -> None:
            raise AssertionError(f"nothing was to be done, but {event}")

        assert resume_comparison(folder.root, complain) == comparison

    @pytest.mark.slow
    def test_killed_between_cells_it_goes_on_and_ends_the_same(self, compared_config, comparison, tmp_path):
        root = tmp_path / "killed"
        kill_at(compared_config, root, Moment("ended", 5))
        begun = read_comparison(ComparisonFolder(root))
        assert begun is not None
        assert 0 < len(begun.cells) < len(comparison.cells)
        heard: list[Event] = []
        resumed = resume_comparison(root, heard.append)
        assert without_times(resumed) == without_times(comparison)
        assert not {cell.name for cell in begun.cells} & {e.stage for e in heard if isinstance(e, StageEnded)}

    def test_changed_text_is_noticed_on_resume(self, compared_config, text_file, tmp_path):
        text = tmp_path / "own.txt"
        text.write_text(text_file.read_text())
        config = compared_config.model_copy(update={"texts": {"own": str(text)}, "methods": ("llm-pruner", "flap")})

        def interrupt(event: Event) -> None:
            if isinstance(event, StageEnded) and "keep" in event.stage and (tmp_path / "out/comparison.json").is_file():
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_comparison(config, tmp_path / "out", interrupt)
        text.write_text(text.read_text().replace("the", "a"))
        with pytest.raises(RunFolderError, match=r": own changed since"):
            resume_comparison(tmp_path / "out")

    def test_other_settings_in_the_same_folder_are_refused(self, folder, compared_config):
        with pytest.raises(RunFolderError, match="seeds"):
            run_comparison(compared_config.model_copy(update={"seeds": (0,)}), folder.root)

    def test_a_folder_with_something_else_is_refused(self, compared_config, tmp_path):
        (tmp_path / "file").write_text("mine")
        with pytest.raises(RunFolderError, match="holds no comparison"):
            run_comparison(compared_config, tmp_path)


@pytest.mark.slow
class TestJoin:
    """Seeds may be run by several processes, or on several machines, and joined."""

    def test_joined_cells_are_what_one_process_makes_and_are_not_made_again(
        self, compared_config, comparison, one_seed, tmp_path
    ):
        heard: list[Event] = []
        joined = run_comparison(compared_config, tmp_path / "all", heard.append, [one_seed])
        assert without_times(joined) == without_times(comparison)
        assert joined.finished
        assert not [e.stage for e in heard if isinstance(e, StageEnded) and e.stage.endswith("seed-1")]

    def test_the_folders_of_joined_cells_come_along(self, compared_config, one_seed, tmp_path):
        config = compared_config.model_copy(update={"seeds": (1,), "methods": ("flap", "secateur")})
        joined = run_comparison(config, tmp_path / "all", join=[one_seed])
        assert {cell.method for cell in joined.cells} == {"global_threshold", "secateur"}
        for cell in joined.cells:
            assert CliRunner().invoke(app, ["show", str(tmp_path / "all" / "cells" / cell.name)]).exit_code == 0

    def test_other_settings_of_our_own_search_leave_the_cells_of_others(self, compared_config, one_seed, tmp_path):
        config = self.changed(compared_config, initial_share=0.5).model_copy(update={"seeds": (1,)})
        heard: list[Event] = []
        joined = run_comparison(config, tmp_path / "all", heard.append, [one_seed])
        made = {event.stage for event in heard if isinstance(event, StageEnded) and "keep" in event.stage}
        assert made == {cell.name for cell in joined.cells if cell.method == "secateur"}

    @pytest.mark.parametrize("text", ["{", '{"secateur": "0.1.0"}'])
    def test_a_record_that_cannot_be_read_is_refused(self, text, compared_config, tmp_path):
        (tmp_path / "broken.json").write_text(text)
        with pytest.raises(RunFolderError, match=r"broken.json is no Comparison that this version can read"):
            run_comparison(compared_config, tmp_path / "all", join=[tmp_path / "broken.json"])

    @pytest.mark.parametrize("method", ["llm-pruner", "llm-pruner-middle", "flap", "shortgpt", "ji2023"])
    def test_methods_that_search_no_grid_come_to_the_same_on_another(self, method, compared_config, tmp_path):
        """They choose their own widths, so their cells may be joined whatever the grid is."""
        one = compared_config.model_copy(update={"methods": (method,), "seeds": (0,), "texts": {}})
        made = []
        for levels in (5, 9):
            space = one.base.space.model_copy(update={"ffn_levels": levels})
            base = one.base.model_copy(update={"space": space})
            made.append(run_comparison(one.model_copy(update={"base": base}), tmp_path / str(levels)))
        assert not {cell.method for cell in made[0].cells} & READERS["space.ffn_levels"]
        assert without_times(made[0]) == without_times(made[1])

    def test_what_only_some_methods_read_is_a_setting(self):
        fields = {"search": SearchConfig.model_fields, "space": SpaceConfig.model_fields}
        assert {f"{section}.{name}" for section, names in fields.items() for name in names} >= READERS.keys()

    def test_the_json_alone_can_be_joined(self, compared_config, one_seed, tmp_path):
        alone = tmp_path / "alone.json"
        alone.write_bytes((one_seed / "comparison.json").read_bytes())
        config = compared_config.model_copy(update={"seeds": (1,)})
        joined = run_comparison(config, tmp_path / "all", join=[alone])
        assert joined.cells == read_comparison(ComparisonFolder(one_seed)).cells

    @staticmethod
    def changed(config, **search):
        base = config.base
        return config.model_copy(
            update={"base": base.model_copy(update={"search": base.search.model_copy(update=search)})}
        )

    def test_other_settings_are_refused_and_nothing_is_written(self, compared_config, one_seed, tmp_path):
        other = self.changed(compared_config, measurements=27).base
        with pytest.raises(RunFolderError, match=r"differs in search.measurements: 26 != 27"):
            run_comparison(compared_config.model_copy(update={"base": other}), tmp_path / "all", join=[one_seed])
        assert not (tmp_path / "all").exists()

    def test_other_text_is_refused(self, compared_config, one_seed, tmp_path):
        with pytest.raises(RunFolderError, match="differs in fingerprints"):
            run_comparison(compared_config.model_copy(update={"text_tokens": 320}), tmp_path / "all", join=[one_seed])

    def test_a_folder_without_a_comparison_is_refused(self, compared_config, tmp_path):
        with pytest.raises(RunFolderError, match="--join needs"):
            run_comparison(compared_config, tmp_path / "all", join=[tmp_path])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "secatur"], "did you mean 'secateur'"),
        (["--seeds", "one"], "--seeds 'one'"),
        (["--methods", ","], "names nothing"),
        (["--text", "wikitext2"], "NAME=FILE"),
        (["--text", "w=nowhere.txt"], "nowhere.txt"),
        (["--keep", "1.5"], "share in (0, 1]"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, decoder_folder, text_file, tmp_path):
    out = tmp_path / "out"
    command = ["compare", str(decoder_folder), "--data", str(text_file), "--out", str(out)]
    command += ["--set", "data.sequence_length=32", *arguments]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert not out.exists()
