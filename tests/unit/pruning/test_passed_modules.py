"""A model that is cut as the last one was takes over what was solved for its first modules."""

import itertools

import pytest
import torch

from secateur.pruning.sequence import DenseStreams, reconstruct_in_sequence
from secateur.pruning.surgery import prune
from secateur.space.architecture import Architecture
from tiny import REPRESENTATIVES

# They agree in their first 4, 6 (the same again), 0 and 2 modules; one block of two of them is gone.
WIDTHS = [
    (2, 24, 3, 16, 2, 24),
    (2, 24, 3, 16, 0, 24),
    (2, 24, 3, 16, 0, 24),
    (0, 24, 4, 48, 2, 24),
    (0, 24, 2, 16, 2, 8),
]
STATE_BYTES = 16 * 12 * 32 * 4
WITHOUT, LITTLE, AMPLE = 0, 12 * STATE_BYTES, 1 << 30


def reconstructed(prepared, streams, widths, ridge=0.1, advance=lambda: None):
    """Cut and reconstruct; gives the model and the modules of the first layer that were run."""
    architecture = Architecture.from_widths(widths)
    pruned = prune(prepared.dense, prepared.bank, architecture)
    run = []
    layer = pruned.get_submodule(prepared.dense.family.layers)[0]
    names = prepared.dense.family
    handles = [
        layer.get_submodule(block.module).register_forward_hook(
            lambda _module, _args, _out, name=name: run.append(name)
        )
        for name, block in (("attention", names.attention), ("mlp", names.mlp))
    ]
    reconstruct_in_sequence(prepared.dense, prepared.walk, pruned, architecture, streams, ridge, advance)
    for handle in handles:
        handle.remove()
    return pruned, run


def make_streams(prepared, cache_bytes):
    return DenseStreams(prepared.walk, prepared.calibration, 96, 10_000, cache_bytes)


@pytest.mark.parametrize("cache_bytes", [WITHOUT, LITTLE, AMPLE])
@pytest.mark.parametrize("family", REPRESENTATIVES)
def test_models_made_one_after_another_are_those_made_alone(prepare, family, cache_bytes):
    prepared = prepare(family)
    alone = {widths: reconstructed(prepared, make_streams(prepared, 0), widths)[0].state_dict() for widths in WIDTHS}
    for order in (WIDTHS, WIDTHS[::-1]):
        streams = make_streams(prepared, cache_bytes)
        for widths in order:
            state = reconstructed(prepared, streams, widths)[0].state_dict()
            assert all(torch.equal(state[name], tensor) for name, tensor in alone[widths].items())


def test_modules_that_are_shared_are_not_run_again(prepared):
    streams = make_streams(prepared, AMPLE)
    first, second, other = WIDTHS[0], WIDTHS[1], (2, 16, *WIDTHS[0][2:])
    runs = [set(reconstructed(prepared, streams, widths)[1]) for widths in (first, second, other)]
    assert runs == [{"attention", "mlp"}, set(), {"mlp"}]


def test_what_is_kept_stays_within_memory(prepared):
    """Besides the dense stream before the first module and behind each, and what the dense model says."""
    vocabulary_bytes = prepared.calibration.num_tokens * prepared.dense.model.config.vocab_size * 4
    dense_bytes = 7 * STATE_BYTES + vocabulary_bytes
    kept = []
    for cache_bytes in (WITHOUT, dense_bytes, dense_bytes + 4 * STATE_BYTES, AMPLE):
        streams = make_streams(prepared, cache_bytes)
        reconstructed(prepared, streams, WIDTHS[0])
        kept.append(streams.passed.num_modules)
    few = kept.pop(2)
    assert kept == [0, 0, 6]
    assert 1 <= few < 4, "weights need memory too"


def test_every_module_counts_as_done_taken_over_or_not(prepared):
    streams, steps = make_streams(prepared, AMPLE), itertools.count()
    for _ in range(2):
        reconstructed(prepared, streams, WIDTHS[0], advance=lambda: next(steps))
    assert next(steps) == 12


def test_another_ridge_shares_nothing(prepared):
    streams = make_streams(prepared, AMPLE)
    reconstructed(prepared, streams, WIDTHS[0], ridge=0.1)
    pruned, run = reconstructed(prepared, streams, WIDTHS[0], ridge=0.3)
    assert set(run) == {"attention", "mlp"}
    alone = reconstructed(prepared, make_streams(prepared, 0), WIDTHS[0], ridge=0.3)[0].state_dict()
    assert all(torch.equal(pruned.state_dict()[name], tensor) for name, tensor in alone.items())


def test_weights_that_were_changed_before_are_not_taken_for_the_banks(prepared):
    """The second pass over one model starts from other weights than the first."""
    streams, architecture = make_streams(prepared, AMPLE), Architecture.from_widths(WIDTHS[0])
    twice, _ = reconstructed(prepared, streams, WIDTHS[0])
    reconstruct_in_sequence(prepared.dense, prepared.walk, twice, architecture, streams, 0.1)
    without = make_streams(prepared, 0)
    alone, _ = reconstructed(prepared, without, WIDTHS[0])
    reconstruct_in_sequence(prepared.dense, prepared.walk, alone, architecture, without, 0.1)
    assert all(torch.equal(twice.state_dict()[name], tensor) for name, tensor in alone.state_dict().items())
