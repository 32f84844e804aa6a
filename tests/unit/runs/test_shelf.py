"""What work puts aside: alike in memory and in files, of which the latter outlive the process."""

import pytest
import torch

from secateur.runs.shelf import Shelf


@pytest.mark.parametrize("in_files", [False, True])
def test_what_is_put_is_taken_until_it_is_dropped(tmp_path, in_files):
    shelf = Shelf(tmp_path / "shelf" if in_files else None)
    tensor = torch.arange(6.0).view(2, 3)
    shelf.put("a", {"x": tensor.T})
    assert "a" in shelf
    assert torch.equal(shelf.take("a")["x"], tensor.T)
    shelf.drop("a")
    assert "a" not in shelf
    with pytest.raises(KeyError):
        shelf.take("a")
    shelf.drop("a")


def test_files_outlive_the_shelf(tmp_path):
    Shelf(tmp_path).put("a", {"x": torch.ones(2)})
    assert torch.equal(Shelf(tmp_path).take("a")["x"], torch.ones(2))
