"""`secateur soup`: models of one architecture become one folder, or are refused before anything is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from small_runs import Invoke, assert_refused
from transformers import AutoModelForCausalLM, AutoTokenizer

import secateur
from secateur.report.soup import SoupReport
from secateur.space.architecture import Architecture

WEIGHTS = "model.safetensors"


def changed(source: Path, folder: Path, seed: int, factor: float = 1.0) -> Path:
    """Copy a model, with some noise on every matrix, and its final norm multiplied: as if it were another recovery."""
    shutil.copytree(source, folder)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: (each + 0.02 * torch.randn(each.shape, generator=generator)).to(each.dtype) if each.ndim == 2 else each
        for name, each in load_file(source / WEIGHTS).items()
    }
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * factor
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def test_a_greedy_soup_of_an_export_says_what_it_is_made_of(invoke: Invoke, prepared: Any, tmp_path: Path) -> None:
    architecture = Architecture.from_widths((3, 32, 1, 48, 4, 16))
    exported = tmp_path / "exported"
    cut = secateur.cut(prepared.dense, prepared.bank, architecture)
    secateur.export_model(prepared.dense, cut, architecture, exported)
    (exported / "README.md").write_text("of the ingredient")
    # The norms of the first two cancel, which is better than either; with the third nothing does.
    factors = {"a": 4.0, "b": -4.0, "c": 10.0}
    folders = [changed(exported, tmp_path / name, n, factor) for n, (name, factor) in enumerate(factors.items())]
    text_file = tmp_path / "text.txt"
    text_file.write_text("\n\n".join(" ".join(f"w{3 + (n * k) % 93}" for k in range(1, 40)) for n in range(1, 91)))
    out = tmp_path / "soups" / "abc"
    result = invoke("soup", *folders, "--out", out, "--data", text_file)
    assert result.exit_code == 0, result.output
    for words in ("greedy soup", "selection:", "which choose nothing", "packed-64", "2 of 3"):
        assert words in " ".join(result.stdout.split())
    assert result.stdout.rstrip().endswith(str(out))
    report = SoupReport.model_validate_json((out / "soup.json").read_text())
    assert [each.name for each in report.ingredients] == ["a", "b", "c"]
    assert [each.used for each in report.ingredients] == [True, True, False]
    losses = [each.judged.selection_loss for each in report.ingredients if each.judged]
    assert report.soup is not None
    assert report.soup.selection_loss <= min(losses)
    assert report.soup.selection_loss == pytest.approx([each for each in report.tried if each.kept][-1].loss, abs=1e-6)
    assert report.comparison is not None
    made, given = load_file(out / WEIGHTS), [load_file(folder / WEIGHTS) for folder in folders[:2]]
    for name, tensor in made.items():
        wanted = (given[0][name].double() + given[1][name].double()) / 2
        assert torch.equal(tensor, wanted.to(tensor.dtype)), name
    beside = {path.name for path in exported.iterdir()} - {"README.md", WEIGHTS}
    assert "modeling_secateur.py" in beside, "its layers differ"
    for name in beside:
        assert (out / name).read_bytes() == (exported / name).read_bytes(), name
    card = (out / "README.md").read_text()
    assert "# A soup of 2 models" in card
    assert "trust_remote_code=True" in card
    assert str(tmp_path) not in card + (out / "soup.json").read_text(), "where things lay is nobody's business"
    assert [path.name for path in out.parent.iterdir()] == ["abc"]


def test_adapters_in_shards_are_averaged_from_python(decoder_folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(decoder_folder).save_pretrained(base, max_shard_size="50KB")
    AutoTokenizer.from_pretrained(decoder_folder).save_pretrained(base)
    shards = {path.name for path in base.glob("*.safetensors*")}
    assert len(shards) > 2
    merged = []
    for seed in range(2):
        torch.manual_seed(seed)
        settings = LoraConfig(r=2, lora_alpha=4, init_lora_weights=False, target_modules=["q_proj", "up_proj"])
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
        model.save_pretrained(tmp_path / f"adapter-{seed}")
        merged.append(model.merge_and_unload().state_dict())
    adapters = [tmp_path / f"adapter-{seed}" for seed in range(2)]
    report = secateur.soup(adapters, tmp_path / "out", method="uniform", base=base)
    assert (report.num_used, report.base, report.soup) == (2, "base", None)
    assert {path.name for path in (tmp_path / "out").glob("*.safetensors*")} == shards
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name, tensor in made.items():
        assert torch.allclose(tensor, (merged[0][name] + merged[1][name]) / 2, atol=1e-6), name


@pytest.fixture(scope="module")
def pair(decoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    return changed(decoder_folder, folder / "a", 1), changed(decoder_folder, folder / "b", 2)


def _narrower(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name][:40].clone()}, folder / WEIGHTS, metadata={"format": "pt"})


def _lacking(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.norm.weight"]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _other_base(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))


def _other_tokens(folder: Path) -> None:
    rules = json.loads((folder / "tokenizer.json").read_text())
    rules["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(rules))


def _no_safetensors(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def _cut_off(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_narrower, ("'model.layers.1.mlp.up_proj.weight'", "[48, 32]", "[40, 32]")),
        (_lacking, ("has no tensor 'model.norm.weight'",)),
        (_other_base, ("rms_norm_eps", "0.5")),
        (_other_tokens, ("tokenizers cut text differently",)),
        (_no_safetensors, ("has no model.safetensors",)),
        (_cut_off, ("cannot be read as safetensors",)),
    ],
)
def test_what_cannot_be_averaged_is_refused(
    invoke: Invoke, pair: tuple[Path, Path], tmp_path: Path, spoil: Callable[[Path], None], words: tuple[str, ...]
) -> None:
    other = Path(shutil.copytree(pair[1], tmp_path / "other"))
    spoil(other)
    assert_refused(invoke("soup", pair[0], other, "--out", "out", "--method", "uniform"), *words)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("A", "--out", "out", "--method", "uniform"), ("two ingredients or more, got 1",)),
        (("A", "A", "--out", "out", "--method", "uniform"), ("given twice",)),
        (("A", "B", "--out", "out"), ("--data", "--method uniform")),
        (("A", "B", "--out", "out", "--method", "greedyy", "--data", "demo"), ("did you mean 'greedy'?",)),
        (("A", "B", "--out", "A", "--method", "uniform"), ("is there already and is not empty",)),
        (("A", "absent", "--out", "out", "--method", "uniform"), ("absent is no folder",)),
        (("A", "B", "--out", "out", "--data", "absent.txt"), ("'absent.txt' does not exist",)),
        (("A", "B", "--out", "out", "--method", "uniform", "--base", "B"), ("no ingredient is an adapter",)),
    ],
)
def test_what_cannot_be_meant_is_refused(
    invoke: Invoke, pair: tuple[Path, Path], tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    named = {"A": pair[0], "B": pair[1]}
    assert_refused(invoke("soup", *(named.get(each, each) for each in arguments)), *words)
    assert list(tmp_path.iterdir()) == []
