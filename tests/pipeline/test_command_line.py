"""The command line: what it prints, and that bad input gets one line, exit code 2, and nothing on disk."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_runs import Finished, Invoke, assert_refused
from typer.main import get_command

from secateur.cli import app
from secateur.config import RunConfig, to_yaml
from secateur.evaluation.evaluate import Evaluation
from secateur.report.record import Report


def test_prune_ends_in_a_table_and_the_path_of_the_result(
    invoke: Invoke, small_config: RunConfig, tmp_path: Path
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(to_yaml(small_config))
    root = tmp_path / "out"
    timing = ("speed=true", "speed_prompt_tokens=8", "speed_new_tokens=2", "speed_repeats=2")
    given = ("--config", config, "--out", root, "--seed", 3, *(f"--set=evaluation.{setting}" for setting in timing))
    result = invoke("prune", small_config.model.name, *given, "--keep", 0.6)
    assert result.exit_code == 0, result.output
    for word in ("dense", "uniform", "Secateur", "parameters", "reduction", "perplexity", "seconds", "Kendall tau"):
        assert word in result.stdout
    assert "speed beside dense: prefill" in result.stdout
    assert result.stdout.rstrip().endswith(str(root / "exported"))
    report = Report.model_validate_json((root / "report.json").read_text())
    assert report.keep == 0.6
    speed = report.speed
    assert speed is not None, "the dense model and the export are timed by turns"
    assert [each.name for each in speed.models] == ["dense", "secateur"]
    assert speed.models[0].weights_bytes > speed.models[1].weights_bytes == report.export.bytes
    assert (speed.prompt_tokens, speed.new_tokens, speed.repeats) == (8, 2, 2)
    shown = invoke("show", root, "--top", 3)
    assert shown.exit_code == 0
    for word in ("calibrate", "search", "predictor", "best of 34 measured candidates"):
        assert word in shown.stdout
    resumed = invoke("resume", root)
    assert resumed.exit_code == 0
    assert "Secateur" in resumed.stdout
    assert_refused(
        invoke("prune", small_config.model.name, *given, "--keep", 0.7),
        "belongs to another run: budget.keep: 0.6 != 0.7",
    )


def test_evaluate_states_its_protocol_and_an_interval(invoke: Invoke, decoder_folder: Path, text_file: Path) -> None:
    result = invoke(
        "evaluate", decoder_folder, "--data", text_file, "--protocol", "ppl-64", "--protocol", "sliding-64-32"
    )
    assert result.exit_code == 0, result.output
    for words in ("ppl-64: rows joined by a blank line", "sliding-64-32", "95% intervals", "bits per byte"):
        assert words in " ".join(result.stdout.split())


def test_two_models_are_evaluated_beside_each_other(
    invoke: Invoke, decoder_folder: Path, finished: Finished, text_file: Path
) -> None:
    """Under everything that needs no task, with the same as JSON."""
    arguments = ("--against", decoder_folder, "--data", text_file, "--protocol", "ppl-32", "--speed", "--repeats", 3)
    result = invoke(
        "evaluate", finished.root / "exported", *arguments, "--new-tokens", 4, "--prompt-tokens", 8, "--json", "e.json"
    )
    assert result.exit_code == 0, result.output
    record = Evaluation.model_validate_json(Path("e.json").read_text())
    pruned, dense = record.texts
    assert pruned.kl is not None
    assert pruned.kl.value > 0
    assert dense.kl is None
    (comparison,) = record.comparisons
    losses = [math.log(each.perplexity.value) for each in (pruned, dense)]
    assert comparison.difference == pytest.approx(losses[0] - losses[1], abs=1e-6)
    assert record.speed is not None
    assert [each.name for each in record.speed.models] == [str(decoder_folder), str(finished.root / "exported")]
    for words in ("ratio", "sign flips", "exported", "tokens of prompt"):
        assert words in result.stdout


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--protocol", "ppl128"), "known forms: ppl-N, sliding-N-S"),
        (("--protocol", "sliding-16-32"), "1 <= stride <= window must hold"),
        (("--protocol", "ppl-4096"), "the model has 128"),
        (("--task-data", "nowhere"), "'nowhere' is not a folder"),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_one_line(
    invoke: Invoke, decoder_folder: Path, text_file: Path, arguments: tuple[str, ...], word: str
) -> None:
    assert_refused(invoke("evaluate", decoder_folder, "--data", text_file, *arguments), word)


BAD_VALUES = {
    "missing folder": (("./nowhere",), ("'./nowhere' does not exist",)),
    "keep above one": (("MODEL", "--keep", "1.5"), ("(0, 1]", "1.5")),
    "keep of nothing": (("MODEL", "--keep", "0"), ("(0, 1]",)),
    "nothing to cut": (("MODEL", "--keep", "1"), ("only 1 architectures", "lower --keep")),
    "unknown section": (("MODEL", "--set", "serch.rounds=1"), ("'serch'", "did you mean 'search'?")),
    "unknown key": (("MODEL", "--set", "search.measurments=50"), ("'search.measurments'", "'measurements'?")),
    "not an assignment": (("MODEL", "--set", "search.rounds"), ("section.field=value",)),
    "not a number": (("MODEL", "--set", "search.rounds=many"), ("search.rounds='many'",)),
    "unknown importance": (("MODEL", "--set", "pruning.importance=wandaa"), ("did you mean 'wanda'?",)),
    "unknown method": (("MODEL", "--set", "search.method=evolution"), ("search.method='evolution'", "'evolutionary'")),
    "unknown device": (("MODEL", "--device", "tpu"), ("model.device='tpu'",)),
    "missing config": (("MODEL", "--config", "absent.yaml"), ("'absent.yaml'",)),
    "missing data file": (("MODEL", "--data", "absent.txt"), ("'absent.txt' does not exist",)),
    "too long windows": (("MODEL", "--set", "data.sequence_length=4096"), ("128 positions",)),
    "all layers protected": (("MODEL", "--set", "space.protect_first=3"), ("number of layers 3",)),
    "uniform without a head": (("MODEL", "--preset", "llm-pruner", "--keep", "0.02"), ("leaves no KV head",)),
    "less than the paper's ratios": (("MODEL", "--preset", "ji2023", "--keep", "0.05"), ("choose another --keep",)),
    "less than is protected": (("MODEL", "--keep", "0.3", "--set", "space.protect_first=2"), ("--keep 0.6667",)),
    "unknown target": (("MODEL", "--target", "onnx"), ("export.target='onnx'", "'per-layer'")),
    "a tokenizer without a name in GGUF": (("MODEL", "--target", "gguf"), ("no name for", "another --target")),
    "heads that devices cannot share": (("MODEL", "--tensor-parallel", "3"), ("8 query heads, 4 KV heads",)),
    "no number of parameters": (("MODEL", "--max-params", "1.2X"), ("budget.max_params='1.2X'", "such as 1.2B")),
    "no positive number": (("MODEL", "--max-flops", "0"), ("budget.max_flops='0'", "greater than 0")),
    "no latency": (("MODEL", "--max-latency-ms", "train=3"), ("'train=3'", "prefill=MS")),
    "two limits on one": (
        ("MODEL", "--max-latency-ms", "3", "--max-latency-ms", "decode=4"),
        ("given a limit already",),
    ),
    "fewer than are never cut": (("MODEL", "--max-params", "1k"), ("allows 1,000 parameters", "smallest architecture")),
    "more than the dense model": (("MODEL", "--max-params", "1B"), ("nothing to prune", "lower --max-params")),
    "a latency out of reach": (
        ("MODEL", "--max-latency-ms", "1e-6", "--set", "latency.repeats=1"),
        ("--max-latency-ms decode allows 1e-06 ms", "smallest architecture"),
    ),
    "a cache for the paper": (("MODEL", "--preset", "ji2023", "--max-kv-cache-bytes", "9k"), ("give --keep only",)),
    "band that holds too few": (("MODEL", "--keep", "0.99", "--set", "budget.band=0.0001"), ("at least 25",)),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_bad_input_gets_one_line_and_leaves_nothing(
    invoke: Invoke, small_config: RunConfig, tmp_path: Path, name: str
) -> None:
    arguments, words = BAD_VALUES[name]
    model = small_config.model.name
    given = [model if argument == "MODEL" else argument for argument in arguments]
    if "--data" not in given:
        given += ["--data", small_config.data.sources[0]]
    length = [] if "data.sequence_length=4096" in given else ["--set", "data.sequence_length=32"]
    result = invoke("prune", *given, *length, "--out", tmp_path / "out")
    assert_refused(result, *words)
    assert not (tmp_path / "out").exists()


def test_methods_are_compared_at_a_share_alone(invoke: Invoke, small_config: RunConfig, tmp_path: Path) -> None:
    arguments = ("--data", small_config.data.sources[0], "--set", "budget.max_params=20k", "--out", tmp_path / "out")
    assert_refused(invoke("compare", small_config.model.name, *arguments), "give --keep only")
    assert not (tmp_path / "out").exists()


def test_no_text_at_all_says_how_to_give_some(invoke: Invoke, decoder_folder: Path) -> None:
    assert_refused(invoke("prune", decoder_folder), "--data PATH")


@pytest.mark.parametrize(("text", "word"), [("", "no text in it"), ("Too short.", "tokens, at least 128 are needed")])
def test_empty_or_short_text_says_how_many_tokens_are_needed(
    invoke: Invoke, decoder_folder: Path, tmp_path: Path, text: str, word: str
) -> None:
    (tmp_path / "short.txt").write_text(text)
    arguments = ("--data", tmp_path / "short.txt", "--set", "data.sequence_length=32", "--out", tmp_path / "out")
    assert_refused(invoke("prune", decoder_folder, *arguments), word)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def copied_decoder(decoder_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(decoder_folder, tmp_path / "copy"))


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')


def truncate_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def rename_family(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bloom"}))


def remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (break_config, "is not a model's config"),
        (truncate_weights, "model.safetensors"),
        (rename_family, "docs/families.md says how to add one"),
        (remove_config, "has no config.json"),
    ],
)
def test_a_damaged_or_unknown_model_is_refused(
    invoke: Invoke, copied_decoder: Path, text_file: Path, tmp_path: Path, damage: Callable[[Path], None], word: str
) -> None:
    damage(copied_decoder)
    result = invoke("prune", copied_decoder, "--data", text_file, "--out", tmp_path / "out")
    assert_refused(result, word)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_run_is_refused(invoke: Invoke, small_config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("precious")
    arguments = ("--data", small_config.data.sources[0], "--out", tmp_path / "thesis")
    assert_refused(invoke("prune", small_config.model.name, *arguments), "is not empty and holds no run")
    assert_refused(invoke("resume", tmp_path / "thesis"), "holds no run")
    assert_refused(invoke("show", tmp_path / "thesis"), "holds no run")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_named(invoke: Invoke, small_config: RunConfig) -> None:
    result = invoke("prune", small_config.model.name, "--data", small_config.data.sources[0], "--device", "cuda")
    assert_refused(result, "torch sees no GPU")


def test_the_flags_are_those_that_scripts_rely_on() -> None:
    expected = {
        "prune": {
            "--keep",
            "--max-params",
            "--max-flops",
            "--max-kv-cache-bytes",
            "--max-latency-ms",
            "--max-drop",
            "--minimize",
            "--target",
            "--recover",
            "--recipe",
            "--robust",
            "--tensor-parallel",
            "--out",
            "--data",
            "--groups",
            "--preset",
            "--config",
            "--set",
            "--device",
            "--dtype",
            "--seed",
            "--quiet",
            "--json-progress",
            "--executor",
            "--workers",
            "--ray-address",
            "--execution",
            "--track",
        },
        "plan": {
            "--keep",
            "--max-params",
            "--max-flops",
            "--max-kv-cache-bytes",
            "--max-latency-ms",
            "--max-drop",
            "--minimize",
            "--target",
            "--recover",
            "--recipe",
            "--robust",
            "--tensor-parallel",
            "--data",
            "--groups",
            "--preset",
            "--config",
            "--set",
            "--device",
            "--dtype",
            "--seed",
        },
        "compare": {
            "--keep",
            "--methods",
            "--seeds",
            "--out",
            "--data",
            "--text",
            "--text-tokens",
            "--join",
            "--config",
            "--set",
            "--device",
            "--quiet",
            "--json-progress",
        },
        "evaluate": {
            "--against",
            "--data",
            "--protocol",
            "--tasks",
            "--task-data",
            "--shots",
            "--limit",
            "--speed",
            "--prompt-tokens",
            "--new-tokens",
            "--batch",
            "--repeats",
            "--json",
            "--device",
            "--dtype",
            "--batch-tokens",
            "--seed",
            "--trust-remote-code",
        },
        "export": {"--point", "--quantize", "--out", "--quiet", "--json-progress"},
        "soup": {
            "--out",
            "--method",
            "--data",
            "--base",
            "--device",
            "--trust-remote-code",
            "--quiet",
            "--json-progress",
        },
        "recover": {
            "--data",
            "--method",
            "--dense",
            "--distill",
            "--front",
            "--between",
            "--recipe",
            "--robust",
            "--groups",
            "--out",
            "--config",
            "--set",
            "--device",
            "--dtype",
            "--seed",
            "--trust-remote-code",
            "--quiet",
            "--json-progress",
            "--track",
        },
        "report": {"--out", "--schema"},
        "show": {"--top"},
        "resume": {
            "--quiet",
            "--json-progress",
            "--executor",
            "--workers",
            "--ray-address",
            "--execution",
            "--track",
        },
        "init": {"--model", "--keep", "--data"},
        "config": {"--schema"},
        "doctor": {"--json"},
    }
    commands = get_command(app).commands  # type: ignore[attr-defined]
    flags = {
        verb: {flag for parameter in command.params for flag in parameter.opts if flag.startswith("--")}
        for verb, command in commands.items()
    }
    assert flags == expected


def test_an_export_is_evaluated_as_it_is_and_other_code_only_when_trusted(
    invoke: Invoke, small_config: RunConfig, finished: Finished, tmp_path: Path
) -> None:
    exported = finished.root / "exported"
    assert (exported / "modeling_secateur.py").is_file(), "this run's best architecture differs between layers"
    assert (exported / "model.safetensors").stat().st_mode & 0o444 == 0o444, "others may read what is exported"
    options = ("--data", small_config.data.sources[0], "--protocol", "ppl-64")
    assert "ppl-64" in invoke("evaluate", exported, *options).stdout, "Secateur knows the classes of its exports"
    foreign = Path(shutil.copytree(exported, tmp_path / "foreign"))
    for name in ("config.json", "modeling_secateur.py"):
        (foreign / name).write_text((foreign / name).read_text().replace("secateur_llama", "somebodys_llama"))
    arguments = ("evaluate", foreign, *options)
    assert_refused(invoke(*arguments), "--trust-remote-code")
    assert "ppl-64" in invoke(*arguments, "--trust-remote-code").stdout
