"""Runs in which channels of the residual stream may go too."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import Finished, Invoke, Moment, assert_refused, finish, run_until
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from secateur.config import RunConfig, build_config, resolve
from secateur.pipeline import resume_pipeline

# The smallest hidden size of which a model has room above the budget.
LIVE, KEEP = 25, 0.72


@pytest.fixture(scope="module")
def half_empty(small_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder that writes to 25 of its 32 hidden channels only."""
    folder = tmp_path_factory.mktemp("half-empty")
    model = LlamaForCausalLM.from_pretrained(small_config.model.name)
    model.get_input_embeddings().weight.data[:, LIVE:] = 0
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data[LIVE:] = 0
        layer.mlp.down_proj.weight.data[LIVE:] = 0
    model.save_pretrained(folder)
    for path in Path(small_config.model.name).glob("tokenizer*"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def narrow_config(half_empty: Path, small_config: RunConfig, small_settings: dict[str, Any]) -> RunConfig:
    more = {
        "model": {"name": str(half_empty)},
        "data": {"sources": [small_config.data.sources[0]]},
        "space": {"hidden": True, "hidden_levels": 2},
        "budget": {"keep": KEEP},
    }
    return resolve(build_config([small_settings, more]))


@pytest.fixture(scope="module")
def narrow(narrow_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(narrow_config, tmp_path_factory.mktemp("narrow") / "run")


def test_channels_that_nothing_writes_to_go_first(narrow: Finished) -> None:
    hidden = narrow.report.hidden
    assert hidden is not None
    assert (hidden.chosen, hidden.dense) == (LIVE, 32)
    assert hidden.kl[LIVE] < hidden.kl[32], "the budget is spent on what is used"


def test_the_budget_and_the_reduction_are_of_the_model_that_was_given(narrow: Finished, half_empty: Path) -> None:
    dense, result = narrow.report.row("dense"), narrow.report.row("secateur")
    given = LlamaForCausalLM.from_pretrained(half_empty)
    in_layers = sum(p.numel() for p in given.model.layers.parameters())
    assert dense.cost.decoder_parameters == in_layers
    assert 0.67 < result.cost.decoder_parameters / in_layers <= KEEP
    assert result.parameter_reduction == pytest.approx(1 - result.cost.decoder_parameters / in_layers)
    assert narrow.report.budget[0].dense == in_layers


def test_the_export_has_the_hidden_size_that_was_chosen_and_loads(narrow: Finished) -> None:
    folder = narrow.root / "exported"
    export = narrow.report.export
    code = export.remote_code
    loaded = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=code)  # the run's own file
    assert loaded.config.hidden_size == loaded.get_input_embeddings().weight.shape[1] == LIVE
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert sum(p.numel() for p in loaded.parameters()) == export.num_parameters
    assert export.max_logit_difference is not None
    assert export.max_logit_difference < 1e-3


def test_layers_alike_of_another_hidden_size_are_a_stock_model(narrow_config: RunConfig, tmp_path: Path) -> None:
    """25 is divided by no number of heads: a Llama config would refuse it."""
    config = narrow_config.model_copy(update={"export": narrow_config.export.model_copy(update={"target": "uniform"})})
    run = finish(config, tmp_path / "run")
    loaded = AutoModelForCausalLM.from_pretrained(run.root / "exported", dtype=torch.float32)
    assert not run.report.export.remote_code
    assert loaded.config.hidden_size == run.report.hidden.chosen == LIVE
    assert loaded.config.model_type == "mistral"


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_the_same_channels(
    narrow: Finished, narrow_config: RunConfig, tmp_path: Path
) -> None:
    run_until(narrow_config, tmp_path / "run", Moment("advanced", 20, "search"))
    report = resume_pipeline(tmp_path / "run")
    assert report.choice == narrow.report.choice
    assert report.hidden == narrow.report.hidden


def test_points_of_the_front_are_exported_with_that_hidden_size(narrow: Finished, invoke: Invoke) -> None:
    result = invoke("export", narrow.root, "--point", 1, "--out", "point")
    assert result.exit_code == 0, result.output
    assert f'"hidden_size": {LIVE}' in Path("point/config.json").read_text()


@pytest.mark.parametrize(
    "options",
    [
        ["--max-drop", "5%"],
        ["--max-latency-ms", "1"],
        ["--target", "gguf"],
        ["--set", "search.method=uniform"],
        ["--set", "search.objectives=[quality,kv_cache_bytes_per_token]"],
        ["--set", "pruning.reconstruction=bias"],
    ],
)
def test_what_cannot_be_had_together_is_refused_in_one_line(
    half_empty: Path, small_config: RunConfig, invoke: Invoke, options: list[str]
) -> None:
    text = small_config.data.sources[0]
    result = invoke("prune", half_empty, "--data", text, "--set", "space.hidden=true", *options)
    assert_refused(result, "space.hidden=true", "leave one of the two out")


def test_a_comparison_is_at_one_hidden_size(invoke: Invoke) -> None:
    assert_refused(invoke("compare", "demo", "--set", "space.hidden=true"), "leave space.hidden out")


def test_a_family_whose_hidden_size_is_bound_is_refused(
    tmp_path: Path, invoke: Invoke, small_config: RunConfig
) -> None:
    sizes = {"vocab_size": 1024, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(tmp_path / "gpt2")
    for path in Path(small_config.model.name).glob("tokenizer*"):
        (tmp_path / "gpt2" / path.name).write_bytes(path.read_bytes())
    text = small_config.data.sources[0]
    sequence = ["--set", "data.sequence_length=32"]
    result = invoke("prune", tmp_path / "gpt2", "--data", text, "--set", "space.hidden=true", *sequence)
    assert_refused(result, "space.hidden=true cannot narrow family 'gpt2'")
