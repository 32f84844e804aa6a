"""What lies in files is what would be in memory: the bank, the pruned model, and a whole run on a placed model."""

import pytest
import torch

from secateur.data import Role
from secateur.export.checkpoint import round_weights
from secateur.model.loading import load_dense
from secateur.model.shape import decoder_layers
from secateur.model.walk import DecoderWalk
from secateur.pruning.bank import build_bank, module_file
from secateur.pruning.calibration import calibrate
from secateur.pruning.final_norm import scale_output
from secateur.pruning.surgery import prune
from secateur.runs.shelf import Shelf
from secateur.space.architecture import Architecture
from tiny import REPRESENTATIVES

VARIED = Architecture.from_widths((3, 32, 1, 48, 4, 16))


def assert_same_banks(one, other, space):
    for index, options in enumerate(space.options):
        assert one.errors(index) == other.errors(index)
        for width in options[1:]:
            left, right = one.slices(index, width), other.slices(index, width)
            assert left.keys() == right.keys()
            for name, tensor in left.items():
                assert torch.equal(tensor, right[name])


@pytest.mark.parametrize("family", REPRESENTATIVES)
def test_statistics_and_bank_in_files_are_those_in_memory(prepare, family, tmp_path):
    prepared = prepare(family)
    statistics = calibrate(
        prepared.dense, prepared.calibration, batch_tokens=96, seed=0, fisher=True, shelf=Shelf(tmp_path / "shelf")
    )
    bank = build_bank(prepared.dense, statistics, prepared.space.options, folder=tmp_path / "bank")
    assert_same_banks(bank, prepared.bank, prepared.space)


def test_a_bank_that_was_begun_is_gone_on_with(prepared, tmp_path):
    """Modules whose files are there are not made again."""
    build_bank(prepared.dense, prepared.statistics, prepared.space.options, folder=tmp_path)
    kept, again = module_file(tmp_path, 1), module_file(tmp_path, 4)
    written = kept.stat().st_mtime_ns
    again.unlink()
    bank = build_bank(prepared.dense, prepared.statistics, prepared.space.options, folder=tmp_path)
    assert kept.stat().st_mtime_ns == written
    assert again.is_file()
    assert_same_banks(bank, prepared.bank, prepared.space)


def test_a_run_on_mapped_weights_is_the_run_on_weights_in_memory(save_model, make_tokens, tmp_path):
    """Calibrated, cut and walked, with every layer let go of as soon as it is behind."""
    folder = str(save_model(tmp_path / "model", "qwen2"))
    logits = []
    for scratch in (None, tmp_path):
        dense = load_dense(folder, "cpu", scratch=scratch)
        walk = DecoderWalk(dense.model, dense.family, release=dense.release)
        statistics = calibrate(dense, make_tokens(Role.CALIBRATION), batch_tokens=24, seed=0)
        bank = build_bank(dense, statistics, [{0, width} for width in VARIED.widths])
        pruned = prune(dense, bank, VARIED)
        tokens = make_tokens().tokens
        dense.release()
        logits += [walk.logits(walk.normed([tokens])[0]), pruned(input_ids=tokens).logits]
    assert torch.equal(logits[0], logits[2])
    assert torch.equal(logits[1], logits[3])


@pytest.mark.parametrize("family", REPRESENTATIVES)
@pytest.mark.parametrize("tied", [False, True])
def test_what_is_outside_of_layers_is_shared_and_the_dense_model_stays_as_it_was(make_dense, make_tokens, family, tied):
    dense = make_dense(family, tied=tied)
    before = {name: tensor.clone() for name, tensor in dense.model.state_dict().items()}
    statistics = calibrate(dense, make_tokens(Role.CALIBRATION), batch_tokens=24, seed=0)
    bank = build_bank(dense, statistics, [{0, width} for width in VARIED.widths])
    pruned = prune(dense, bank, VARIED)
    embedding, own = dense.model.get_input_embeddings().weight, pruned.get_input_embeddings().weight
    assert own.data_ptr() == embedding.data_ptr(), "the embedding is not in memory twice"
    assert own is not embedding
    layers = {parameter.data_ptr() for parameter in decoder_layers(dense.model, dense.family).parameters()}
    assert not layers & {parameter.data_ptr() for parameter in decoder_layers(pruned, dense.family).parameters()}
    # Whatever a run does to the pruned model:
    scale_output(pruned.get_submodule(dense.family.final_norm), 0.9, dense.family)
    round_weights(pruned, "bfloat16")
    pruned.to(torch.float16)
    pruned.to("meta")
    for name, tensor in dense.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_what_rounding_leaves_as_it_is_stays_shared(make_dense, make_tokens):
    dense = make_dense()
    round_weights(dense.model, "bfloat16")
    statistics = calibrate(dense, make_tokens(Role.CALIBRATION), batch_tokens=24, seed=0)
    pruned = prune(dense, build_bank(dense, statistics, [{0, width} for width in VARIED.widths]), VARIED)
    round_weights(pruned, "bfloat16")
    assert pruned.lm_head.weight.data_ptr() == dense.model.lm_head.weight.data_ptr()
