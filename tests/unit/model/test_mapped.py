"""Weights in files: the same numbers, changed in place or not, and out of memory when they are let go of."""

from pathlib import Path

import pytest
import torch

from secateur.errors import ModelError
from secateur.model import mapped
from secateur.model.loading import load_dense
from secateur.model.mapped import MappedWeights, check_room
from secateur.model.stored import stored_alike


def resident_file_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile"))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_parameters_keep_their_values_and_stay_the_same_objects(tmp_path, dtype):
    module = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Linear(5, 3, bias=False)).requires_grad_(False)
    module.to(dtype)
    before = {name: (parameter, parameter.clone()) for name, parameter in module.named_parameters()}
    MappedWeights(module.parameters(), tmp_path)
    for name, parameter in module.named_parameters():
        assert parameter is before[name][0]
        assert torch.equal(parameter, before[name][1])
    assert list(tmp_path.iterdir()) == [], "nothing is left however the process ends"


def test_a_change_in_place_outlives_a_release(tmp_path):
    """Were the mapping private, letting go of the page would take the change with it."""
    weight = torch.nn.Parameter(torch.zeros(3, 4), requires_grad=False)
    weights = MappedWeights([weight], tmp_path)
    weight[1] = 5.0
    weights.release()
    assert weight.sum() == 20


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_what_is_released_leaves_memory_and_comes_back(tmp_path):
    size = 16 << 20
    weight = torch.nn.Parameter(torch.ones(size // 4), requires_grad=False)
    weights = MappedWeights([weight], tmp_path)
    assert weight.sum() == size // 4
    touched = resident_file_bytes()
    weights.release()
    assert resident_file_bytes() < touched - size // 2
    assert weight.sum() == size // 4


def test_too_little_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = mapped.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(mapped.shutil, "disk_usage", lambda _folder: usage._replace(free=10))
    with pytest.raises(ModelError, match=r"has room for 0\.0 GB, the model's weights need 0\.0 GB.*choose an --out"):
        check_room(torch.nn.Linear(7, 5), tmp_path)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "phi3"])
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_a_mapped_model_is_the_one_that_would_be_in_memory(make_model, tokenizer, tmp_path, family, stored):
    """Stored in half precision and computed in single: buffers too, of which some depend on the type of loading."""
    folder = tmp_path / "model"
    make_model(family).to(getattr(torch, stored)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    plain = load_dense(str(folder), "cpu")
    laid_down = load_dense(str(folder), "cpu", scratch=tmp_path)
    assert laid_down.model.dtype is plain.model.dtype is torch.float32
    assert laid_down.stored_dtype == plain.stored_dtype == stored
    assert len(laid_down.mapped_layers) == plain.shape.num_layers
    assert laid_down.fingerprint() == plain.fingerprint()
    laid_down.release()
    for (name, one), (_, other) in zip(
        plain.model.state_dict().items(), laid_down.model.state_dict().items(), strict=True
    ):
        assert torch.equal(one, other), name
    for (name, one), (_, other) in zip(plain.model.named_buffers(), laid_down.model.named_buffers(), strict=True):
        assert torch.equal(one, other), name
        assert one.dtype is other.dtype
    tokens = torch.arange(12)[None]
    assert torch.equal(plain.model(input_ids=tokens).logits, laid_down.model(input_ids=tokens).logits)


def test_a_checkpoint_of_several_types_is_not_taken_for_one_of_its_config(make_model, tmp_path):
    """Read in the config's half precision, what is stored in single would be rounded."""
    model = make_model().to(torch.bfloat16)
    model.save_pretrained(tmp_path / "alike")
    assert stored_alike(tmp_path / "alike", "bfloat16")
    assert not stored_alike(tmp_path / "alike", "float32")
    model.lm_head.to(torch.float32)
    model.save_pretrained(tmp_path / "mixed")
    assert not stored_alike(tmp_path / "mixed", "bfloat16")
    assert not stored_alike(Path("a/hub-id"), "bfloat16")
