"""A stranger's checkpoint is refused before anything is allocated: in one line, within seconds, whatever is in it."""

import contextlib
import json
import math
import shutil
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from secateur.errors import ModelError
from secateur.model.checkpoint_files import INDEX, MOST_JSON, check_checkpoint, read_json, shapes_of
from secateur.model.loading import load_causal_model

WEIGHTS = "model.safetensors"


@pytest.fixture
def checkpoint(make_model, tokenizer, tmp_path) -> Path:
    folder = tmp_path / "model"
    make_model("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def checked(folder: Path) -> None:
    check_checkpoint(folder, AutoConfig.from_pretrained(folder))


def change_config(folder: Path, **entries: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def write_head(folder: Path, head: object, data: bytes = b"") -> None:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_a_checkpoint_as_it_was_saved_is_fine(checkpoint):
    checked(checkpoint)
    assert shapes_of(checkpoint / WEIGHTS).keys() == load_file(checkpoint / WEIGHTS).keys()


def test_shards_with_an_index_are_fine(make_model, checkpoint):
    make_model("llama").save_pretrained(checkpoint, max_shard_size="20KB")
    (checkpoint / WEIGHTS).unlink()
    assert (checkpoint / INDEX).is_file()
    checked(checkpoint)


@pytest.mark.parametrize(
    "name",
    ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "..\\x.safetensors", ".x.safetensors", "x.bin"],
)
def test_an_index_that_points_elsewhere_is_refused(checkpoint, name):
    (checkpoint / INDEX).write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
    with pytest.raises(ModelError, match=r"expected \*\.safetensors files beside it"):
        load_causal_model(str(checkpoint))


@pytest.mark.parametrize("name", ["gone.safetensors", "long" * 99 + ".safetensors", "nul\0.safetensors"])
def test_an_index_that_names_what_cannot_be_there_is_refused(checkpoint, name):
    (checkpoint / INDEX).write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
    with pytest.raises(ModelError, match="which is not there"):
        checked(checkpoint)


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": {"a": 1}}, {"weight_map": {"a": ["b"]}}])
def test_an_index_of_something_else_is_refused(checkpoint, index):
    (checkpoint / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match="no weight_map"):
        checked(checkpoint)


def test_pickled_weights_are_refused_and_not_read(checkpoint):
    torch.save(load_file(checkpoint / WEIGHTS), checkpoint / "pytorch_model.bin")
    (checkpoint / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"'pytorch_model\.bin', a pickle, which can run code"):
        load_causal_model(str(checkpoint))


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", -1),
        ("vocab_size", 10**12),
        ("hidden_size", 10**10),
        ("intermediate_size", 10**12),
        ("num_attention_heads", 10**9),
    ],
)
def test_a_config_that_asks_for_far_more_than_there_is_is_refused_before_memory_is(checkpoint, entry, value):
    change_config(checkpoint, **{entry: value})
    with pytest.raises(ModelError):
        load_causal_model(str(checkpoint))


@pytest.mark.parametrize(
    ("head", "data"),
    [
        ({"a": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}}, b"1234"),
        ({"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}, b"1234"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"12345678"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"12345678"),
        ({"a": {"dtype": "pickle", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
        ({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, b"1234"),
        ({"a": 1}, b""),
        ([1], b""),
        (b"[" * 100_000, b""),
        (b"\xff\xfe", b""),
    ],
)
def test_a_head_that_does_not_fit_its_file_is_refused(checkpoint, head, data):
    write_head(checkpoint, head, data)
    with pytest.raises(ModelError, match="head"):
        load_causal_model(str(checkpoint))


@pytest.mark.parametrize("start", [b"", b"1234", struct.pack("<Q", 2**62), struct.pack("<Q", 200_000_000) + b"{}"])
def test_a_head_that_claims_more_than_the_file_is_refused(checkpoint, start):
    (checkpoint / WEIGHTS).write_bytes(start)
    with pytest.raises(ModelError, match="says that its head has"):
        checked(checkpoint)


def test_json_that_is_nested_without_end_or_too_large_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"a":' * 100_000)
    with pytest.raises(ModelError, match="is not a model's config"):
        read_json(path)
    with path.open("wb") as file:
        file.truncate(MOST_JSON + 1)
    with pytest.raises(ModelError, match=r"at most 67,108,864 are read"):
        read_json(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 4_000), replaced=st.binary(min_size=1, max_size=12))
def test_no_change_of_bytes_gives_anything_but_a_refusal_or_shapes_that_fit(checkpoint, place, replaced):
    path = checkpoint / WEIGHTS
    kept = path.read_bytes()
    path.write_bytes(kept[:place] + replaced + kept[place + len(replaced) :])
    with contextlib.suppress(ModelError):
        assert sum(map(math.prod, shapes_of(path).values())) <= len(kept)
    path.write_bytes(kept)


def test_weights_of_another_model_are_refused_by_name(checkpoint):
    shutil.copy(checkpoint / WEIGHTS, checkpoint / "kept")
    save_file({"other": torch.zeros(4)}, checkpoint / WEIGHTS)
    with pytest.raises(ModelError):
        load_causal_model(str(checkpoint))
