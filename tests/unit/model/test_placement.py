"""`model.device_map`: what goes to accelerate, and what is refused. There is no GPU here: several are not tested."""

import pytest
import torch

from secateur.errors import ConfigError, ModelError
from secateur.model.loading import load_dense
from secateur.model.placement import on_host, refuse_offloaded, resolve_device_map


def test_the_disk_is_no_other_place_than_the_cpu():
    """Weights of CPU layers lie in files anyway."""
    assert resolve_device_map("auto", {"model.layers.1": "disk", "": "cpu"}) == {"model.layers.1": "cpu", "": "cpu"}
    assert on_host({"": "cpu"})
    assert not on_host({"": 0})
    assert not on_host("auto")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a strategy is accelerate's where there is a GPU")
def test_without_a_gpu_every_strategy_is_the_cpu():
    assert resolve_device_map("auto", "balanced") == {"": "cpu"}


def test_devices_by_module_are_handed_on():
    places = {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 1, "model.norm": 1, "lm_head": 1}
    assert resolve_device_map("auto", places) == places


@pytest.mark.parametrize(
    ("device", "device_map", "words"),
    [
        ("cpu", "auto", "model.device=cpu and model.device_map='auto' place the model; leave one out"),
        ("auto", "ballanced", "'ballanced' is unknown; known: auto, balanced, balanced_low_0, sequential"),
        ("auto", {"model.layers.0": 0, "model.layers.1": "cpu"}, "puts 'model.layers.1' on the CPU beside GPUs"),
        (
            "auto",
            {"model.layers.0": 0, "model.layers.1": "disk"},
            "candidates and gradients cannot use; give GPUs that",
        ),
    ],
)
def test_what_cannot_be_placed_is_refused_in_a_line(device, device_map, words):
    with pytest.raises(ConfigError) as error:
        resolve_device_map(device, device_map)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_what_accelerate_has_offloaded_is_refused(make_model):
    model = make_model()
    refuse_offloaded(model)
    model.model.layers[2].to("meta")
    with pytest.raises(ModelError, match=r"the devices are too small: 'model\.layers\.2\..* has been offloaded"):
        refuse_offloaded(model)


@pytest.mark.parametrize("device_map", ["auto", {"": "cpu"}, {"model.layers.1": "disk", "": "cpu"}])
def test_a_model_is_loaded_through_accelerate(save_model, tmp_path, device_map):
    folder = str(save_model(tmp_path / "model"))
    placed = load_dense(folder, device_map=device_map, scratch=tmp_path)
    plain = load_dense(folder, "cpu")
    assert placed.fingerprint() == plain.fingerprint()
    assert placed.model.dtype is torch.float32
    expected = "cuda" if device_map == "auto" and torch.cuda.is_available() else "cpu"
    assert {parameter.device.type for parameter in placed.model.parameters()} == {expected}
