"""Tests notice an array of another shape than a signature says."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from secateur.predictor.quality import rank_correlation


def test_shapes_are_checked_at_every_call():
    assert rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0])) == 1.0
    with pytest.raises(TypeCheckError):
        rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([[1.0, 2.0, 3.0]]))
