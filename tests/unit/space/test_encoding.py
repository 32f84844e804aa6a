import numpy as np

from secateur.space.architecture import Architecture
from secateur.space.encoding import feature_table


def test_features_are_kept_ratios_and_summed_errors(prepared):
    errors = [
        {width: float(index + 1) * (100 - width) for width in options}
        for index, options in enumerate(prepared.space.options)
    ]
    table = feature_table(prepared.space, errors)
    architecture = Architecture.from_widths((4, 24, 0, 48, 1, 8))
    row = table.features(np.array([prepared.space.levels(architecture)]))[0]
    attention = 1 * (100 - 4) + 3 * (100 - 0) + 5 * (100 - 1)
    mlp = 2 * (100 - 24) + 4 * (100 - 48) + 6 * (100 - 8)
    assert row.tolist() == [1, 0.5, 0, 1, 0.25, 8 / 48, attention, mlp, attention + mlp]


def test_every_feature_has_a_name_and_a_sign(prepared):
    table = feature_table(prepared.space, [prepared.bank.errors(index) for index in range(6)])
    assert table.names[:2] == ("kept.0.attention", "kept.0.mlp")
    assert table.names[-3:] == ("error.attention", "error.mlp", "error")
    assert table.monotone == (-1,) * 6 + (1, 1, 1)
    features = table.features(np.zeros((2, 6), dtype=int))
    assert features.shape == (2, len(table.names))


def test_rows_are_encoded_one_by_one(prepared):
    table = feature_table(prepared.space, [prepared.bank.errors(index) for index in range(6)])
    rng = np.random.default_rng(0)
    levels = np.column_stack([rng.integers(len(options), size=20) for options in prepared.space.options])
    together = table.features(levels)
    assert np.array_equal(together, np.vstack([table.features(row[None]) for row in levels]))
