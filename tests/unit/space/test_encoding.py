import numpy as np
import pytest

from secateur.errors import ConfigError
from secateur.space.architecture import Architecture
from secateur.space.encoding import DEFAULT_FEATURES, FEATURES, FeatureSource, Sensitivities, by_option, feature_table

ARCHITECTURE = Architecture.from_widths((4, 24, 0, 48, 1, 8))


@pytest.fixture(scope="module")
def source(prepared):
    space = prepared.space
    errors = [{width: float(index + 1) * (100 - width) for width in o} for index, o in enumerate(space.options)]
    removed = tuple(1 - np.array(options) / options[-1] for options in space.options)
    change = tuple(np.linspace(0.5, -0.5, len(options)) for options in space.options)
    return FeatureSource(space, by_option(space, errors), removed, (Sensitivities("uniform", change),))


def row(source, *names):
    table = feature_table(source, names)
    return table.features(np.array([source.space.levels(ARCHITECTURE)]))[0]


def test_kept_ratios_are_the_effective_ones(source):
    assert row(source, "kept").tolist() == [1, 0.5, 0, 1, 0.25, 8 / 48]


def test_errors_by_module_and_summed_by_kind(source):
    by_module = [1 * 96, 2 * 76, 3 * 100, 4 * 52, 5 * 99, 6 * 92]
    assert row(source, "error").tolist() == by_module
    attention, mlp = sum(by_module[::2]), sum(by_module[1::2])
    assert row(source, "error_sums").tolist() == [attention, mlp, attention + mlp]


def test_blocks_that_are_gone(source):
    assert row(source, "gone").tolist() == [0, 0, 1, 0, 0, 0]


def test_importance_that_is_removed(source):
    np.testing.assert_allclose(row(source, "importance"), [0, 0.5, 1, 0, 0.75, 40 / 48])


def test_sensitivities_by_module_and_put_together(source):
    change = row(source, "sensitivity")
    levels = source.space.levels(ARCHITECTURE)
    expected = [np.linspace(0.5, -0.5, len(o))[level] for o, level in zip(source.space.options, levels, strict=True)]
    np.testing.assert_allclose(change, expected)
    product, summed = row(source, "sensitivity_sums")
    assert product == pytest.approx(change.sum())
    assert summed == pytest.approx(1 + np.expm1(change).sum())


def test_costs_are_shares_of_the_dense_models(source):
    dense = tuple(len(options) - 1 for options in source.space.options)
    table = feature_table(source, ["costs"])
    whole, ours = table.features(np.array([dense, source.space.levels(ARCHITECTURE)]))
    np.testing.assert_allclose(whole, 1)
    assert ours[0] == pytest.approx(
        source.space.decoder_parameters(source.space.levels(ARCHITECTURE)) / source.space.shape.decoder_parameters
    )
    assert ours[2] == pytest.approx(5 / 12)


def test_by_default_all_that_helps_and_is_known(source):
    assert tuple(feature_table(source).layout.blocks) == DEFAULT_FEATURES
    unsensed = FeatureSource(source.space, source.errors)
    assert tuple(feature_table(unsensed).layout.blocks) == ("kept", "error", "error_sums")


def test_every_column_has_a_name_a_sign_and_a_block(source):
    table = feature_table(source, FEATURES)
    layout = table.layout
    features = table.features(np.zeros((2, 6), dtype=int))
    assert features.shape == (2, len(layout.names)) == (2, len(layout.monotone))
    assert len(set(layout.names)) == len(layout.names)
    assert sorted(i for place in layout.blocks.values() for i in range(*place.indices(99))) == list(
        range(len(layout.names))
    )
    assert [layout.names[column] for column in layout.additive] == ["error", "sensitivity.sum.uniform"]


def test_rows_are_encoded_one_by_one(source):
    table = feature_table(source)
    rng = np.random.default_rng(0)
    levels = np.column_stack([rng.integers(len(options), size=20) for options in source.space.options])
    assert np.array_equal(table.features(levels), np.vstack([table.features(each[None]) for each in levels]))


def test_an_unknown_block_is_told_apart_from_one_that_was_not_measured(source):
    with pytest.raises(ConfigError, match=r"'kepd' is unknown.*kept"):
        feature_table(source, ["kepd"])
    with pytest.raises(ConfigError, match="'sensitivity' needs what"):
        feature_table(FeatureSource(source.space, source.errors), ["sensitivity"])
