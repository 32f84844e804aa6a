"""`secateur.prune` on a model in memory: the same run as by name, and a result that is ready to be used."""

import copy
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from small_runs import Finished, Moment, StoppedError, assert_refused, stored_measurements
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import secateur
from secateur.config import RunConfig
from secateur.data import read_documents
from secateur.runs.progress import StageEnded


@pytest.fixture(scope="module", autouse=True)
def _checked_before_the_result(checked_in_forks: None) -> None:
    """Results of this module are checked in forks too."""


@pytest.fixture(scope="module")
def tokenizer(decoder_folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(decoder_folder)


@pytest.fixture(scope="module")
def documents(text_file: Path) -> list[str]:
    return read_documents(str(text_file))


def load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def live(decoder_folder: Path) -> PreTrainedModel:
    """A model as it is in the middle of somebody's session: in training mode, with gradients."""
    model = load(decoder_folder).train()
    model(input_ids=torch.arange(8).view(1, 8), labels=torch.arange(8).view(1, 8)).loss.backward()
    return model


@pytest.fixture(scope="module")
def before(live: PreTrainedModel) -> dict[str, Any]:
    return copy.deepcopy(
        {
            "state": live.state_dict(),
            "config": live.config.to_dict(),
            "modules": [str(module) for module in live.modules()],
            "flags": [(parameter.requires_grad, parameter.dtype) for parameter in live.parameters()],
            "addresses": [parameter.data_ptr() for parameter in live.parameters()],
        }
    )


@pytest.fixture(scope="module")
def prune_live(
    live: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: list[str],
    small_settings: dict[str, dict[str, Any]],
) -> Callable[..., secateur.PruneResult]:
    def prune(**options: Any) -> secateur.PruneResult:
        return secateur.prune(live, tokenizer, **({"data": documents, "config": small_settings} | options))

    return prune


@pytest.fixture(scope="module")
def result(
    prune_live: Callable[..., secateur.PruneResult], before: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> secateur.PruneResult:
    """A whole run on the model in memory; `before` is what it was before."""
    return prune_live(out=tmp_path_factory.mktemp("live") / "run", progress=False)


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 35).view(2, 16), use_cache=False).logits


def test_a_model_in_memory_is_pruned_as_the_same_model_by_name(
    result: secateur.PruneResult, finished: Finished
) -> None:
    assert result.report.fingerprints == finished.report.fingerprints
    by_name = {(m.architecture.key, m.kl, m.loss) for m in finished.measurements}
    assert {(m.architecture.key, m.kl, m.loss) for m in stored_measurements(result.run_folder)} == by_name
    assert result.report.choice == finished.report.choice
    assert result.front == secateur.open_run(finished.root).front


def test_the_model_that_was_given_stays_as_it_was(
    result: secateur.PruneResult, live: PreTrainedModel, before: dict[str, Any]
) -> None:
    assert live.training
    state = live.state_dict()
    assert list(state) == list(before["state"])
    assert all(torch.equal(state[name], tensor) for name, tensor in before["state"].items())
    assert live.config.to_dict() == before["config"]
    assert [str(module) for module in live.modules()] == before["modules"]
    assert [(parameter.requires_grad, parameter.dtype) for parameter in live.parameters()] == before["flags"]
    assert [parameter.data_ptr() for parameter in live.parameters()] == before["addresses"]
    assert all(parameter.grad is not None for parameter in live.parameters())


def test_the_result_is_what_is_saved_and_loads_elsewhere(
    result: secateur.PruneResult, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    saved, given = result.save_pretrained(tmp_path / "deep" / "saved"), logits(result.model)
    request.getfixturevalue("stranger")
    loaded = AutoModelForCausalLM.from_pretrained(saved, trust_remote_code=True)
    assert type(loaded).__module__.startswith("transformers_modules.")
    assert torch.equal(given, logits(loaded))
    assert {"README.md", "tokenizer.json", "modeling_secateur.py"} <= {path.name for path in saved.iterdir()}
    assert sum(p.numel() for p in result.model.parameters()) == result.row.cost.total_parameters
    with pytest.raises(secateur.RunFolderError, match="not empty"):
        result.save_pretrained(saved)


def test_the_pruned_model_generates_trains_and_saves_itself(
    result: secateur.PruneResult, tmp_path: Path, documents: list[str]
) -> None:
    peft = pytest.importorskip("peft")
    model = copy.deepcopy(result.model)
    inputs = result.tokenizer(documents[0][:40], return_tensors="pt")
    generated = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert generated.shape[1] == inputs["input_ids"].shape[1] + 4
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    adapted(**inputs, labels=inputs["input_ids"]).loss.backward()
    merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", trust_remote_code=True)
    assert torch.equal(logits(again), logits(merged))


def test_another_point_of_the_front_is_made_without_another_search(result: secateur.PruneResult) -> None:
    other = next(point for point in result.front.points if not point.chosen)
    made = result.export(other)
    assert made.architecture == other.architecture
    assert made.row.cost == other.cost
    assert sum(p.numel() for p in made.model.parameters()) == other.cost.total_parameters
    with pytest.raises(secateur.RunFolderError, match="is not on the front"):
        result.export(len(result.front.points) + 1)


@pytest.mark.slow
def test_an_interrupted_call_goes_on_when_it_is_made_again(
    prune_live: Callable[..., secateur.PruneResult], result: secateur.PruneResult, tmp_path: Path
) -> None:
    moment = Moment("advanced", 20, stage="search")

    def stop(event: secateur.Event) -> None:
        if moment.reached(event):
            raise StoppedError

    with pytest.raises(StoppedError):
        prune_live(out=tmp_path / "run", callbacks=[stop])
    measured = len(stored_measurements(tmp_path / "run"))
    assert measured > 0
    events: list[secateur.Event] = []
    again = prune_live(out=tmp_path / "run", callbacks=[events.append])
    assert [e.stage for e in events if isinstance(e, StageEnded) and e.reused] == ["calibrate"]
    assert again.report.choice == result.report.choice
    assert again.report.row("secateur").kl == result.report.row("secateur").kl


def test_a_folder_knows_that_another_model_or_text_is_not_its_own(
    prune_live: Callable[..., secateur.PruneResult],
    result: secateur.PruneResult,
    live: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: list[str],
    small_settings: dict[str, dict[str, Any]],
    invoke: Callable[..., Any],
) -> None:
    root = result.run_folder
    assert prune_live(out=root).report == result.report
    other = copy.deepcopy(live)
    other.lm_head.weight.data.mul_(1.01)
    with pytest.raises(secateur.RunFolderError, match="model changed since"):
        secateur.prune(other, tokenizer, data=documents, config=small_settings, out=root)
    with pytest.raises(secateur.RunFolderError, match=r"belongs to another run: data\.sources"):
        prune_live(data=documents[1:], out=root)
    # From the command line there is no model in memory.
    assert_refused(invoke("export", root, "--point", 1), "handed over in Python")
    (root / "report.json").rename(root / "kept.json")
    try:
        assert_refused(invoke("resume", root), "secateur.prune")
    finally:
        (root / "kept.json").rename(root / "report.json")


def test_a_temporary_folder_lives_as_long_as_what_is_in_it(
    prune_live: Callable[..., secateur.PruneResult], capsys: pytest.CaptureFixture[str]
) -> None:
    result = prune_live(preset="llm-pruner")
    assert "calibrate" in capsys.readouterr().out, "progress is drawn where nobody else listens"
    root = result.run_folder
    made = result.export(1)
    del result
    gc.collect()
    assert made.folder.is_dir()
    del made
    gc.collect()
    assert not root.exists()


def test_stages_by_themselves_measure_what_a_run_measures(
    finished: Finished, small_config: RunConfig, decoder_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    dense = secateur.dense_model(decoder_folder)
    sets = secateur.token_sets(
        dense, text_file, sequence_length=32, calibration_tokens=2048, selection_tokens=1024, evaluation_tokens=1024
    )
    selection = sets[secateur.Role.SELECTION]
    space, _ = secateur.search_space(dense, config=small_config)
    bank = secateur.weight_bank(dense, sets[secateur.Role.CALIBRATION], space, batch_tokens=512)
    measurer = secateur.Measurer(dense, bank, selection, batch_tokens=512)
    of_the_run = finished.measurements
    by_hand = measurer.measure([measurement.architecture for measurement in of_the_run])
    assert [(m.architecture, m.kl, m.loss) for m in by_hand] == [(m.architecture, m.kl, m.loss) for m in of_the_run]
    predictor = secateur.fit_predictor(space, bank, by_hand)
    low, high = predictor.interval([by_hand[0].architecture])
    assert low[0] < predictor.predict([by_hand[0].architecture])[0] < high[0]
    architecture = finished.report.choice.architecture
    pruned = secateur.reconstruct(
        dense, secateur.cut(dense, bank, architecture), architecture, sets[secateur.Role.CALIBRATION], batch_tokens=512
    )
    score = secateur.evaluate(pruned, sets[secateur.Role.EVALUATION], dense=dense)
    # The run has matched gains besides.
    assert score.kl == pytest.approx(finished.report.row("secateur").kl, rel=0.2)
    secateur.export_model(dense, pruned, architecture, tmp_path / "made", probe=selection)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "made")
    assert torch.allclose(logits(loaded), logits(pruned), atol=1e-5)


def test_what_is_pushed_is_the_verified_folder(result: secateur.PruneResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for the hub, which is not there: what would be uploaded, and where."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def create_repo(_self: Any, repo_id: str, **options: Any) -> huggingface_hub.RepoUrl:
        calls.append(("create_repo", {"repo_id": repo_id, **options}))
        return huggingface_hub.RepoUrl(f"https://huggingface.co/somebody/{repo_id}")

    def upload_folder(_self: Any, **options: Any) -> None:
        calls.append(("upload_folder", options | {"files": {p.name for p in Path(options["folder_path"]).iterdir()}}))

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    assert result.push_to_hub("small", private=True, create_pr=True) == "https://huggingface.co/somebody/small"
    assert calls[0] == ("create_repo", {"repo_id": "small", "private": True, "exist_ok": True})
    assert calls[1][0] == "upload_folder"
    sent = calls[1][1]
    assert (sent["repo_id"], sent["create_pr"]) == ("somebody/small", True)
    assert {"README.md", "config.json", "model.safetensors", "modeling_secateur.py"} <= sent["files"]


def test_a_result_shows_itself(result: secateur.PruneResult) -> None:
    html = result._repr_html_()
    assert f"{result.row.perplexity.value:.3f}" in html
    assert html.count("<table>") == html.count("</table>") == 3
    summary = result.summary()
    assert f"{result.row.cost.total_parameters:,}" in summary
    assert "Pareto front" in summary
    assert f"{result.row.perplexity.value:.3f}" in repr(result)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"keep": 1.5}, secateur.BudgetError, "--keep must be a share"),
        ({"config": {"search": {"measurment": 30}}}, secateur.ConfigError, "did you mean 'measurements'"),
        ({"data": None}, secateur.ConfigError, "pass data="),
        ({"data": ["too short"]}, secateur.DataError, "tokens, at least"),
        ({"device": "cuda"}, secateur.ConfigError, "where it lies"),
        ({"max_latency_ms": {"decoding": 3}}, secateur.ConfigError, "known: decode, prefill"),
        ({"preset": "flapp"}, secateur.ConfigError, "did you mean 'flap'"),
    ],
)
def test_what_cannot_be_done_is_refused_as_on_the_command_line(
    prune_live: Callable[..., secateur.PruneResult], tmp_path: Path, options: Any, kind: type, words: str
) -> None:
    with pytest.raises(kind, match=words):
        prune_live(out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_settings_come_as_a_record_too_and_arguments_after_them(small_config: RunConfig, decoder_folder: Path) -> None:
    from secateur.api.settings import run_settings

    settings, texts = run_settings(decoder_folder, None, None, {"max_params": "20k"}, config=small_config, seed=3)
    assert settings.data == small_config.data
    assert (settings.seed, settings.budget.max_params, settings.budget.keep) == (3, 20_000, 0.7)
    assert texts == {}
