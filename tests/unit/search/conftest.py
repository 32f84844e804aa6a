import pytest

from secateur.search import propose, propose_sizes


@pytest.fixture(autouse=True)
def _few_offspring(monkeypatch):
    """Eight modules of nine levels need no thousands of predictions a round."""
    monkeypatch.setattr(propose, "OFFSPRING", 64)
    monkeypatch.setattr(propose_sizes, "OFFSPRING", 24)
