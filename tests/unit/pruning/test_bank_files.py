import pytest
import torch

from secateur.pruning.bank_files import MappedTensors, holds, mapped_tensors, write_tensors

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("hold", [False, True])
def test_a_group_of_a_file_comes_back_by_name(tmp_path, hold):
    own, other = torch.arange(6.0), torch.ones(2)
    write_tensors(tmp_path / "m.safetensors", {"output": {"8": own}, "bias": {"8": other}})
    tensors = mapped_tensors(tmp_path / "m.safetensors", "output", CPU, hold=hold)
    assert list(tensors) == ["8"]
    assert torch.equal(tensors["8"], own)
    assert isinstance(tensors, MappedTensors) is not hold


def test_a_cpu_holds_nothing_since_the_kernel_does():
    assert not holds(CPU, 1)


@pytest.mark.parametrize(("num_bytes", "expected"), [(499, True), (500, True), (501, False)])
def test_a_gpu_holds_a_bank_that_leaves_as_much_again(monkeypatch, num_bytes, expected):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (1_000, 4_000))
    assert holds(GPU, num_bytes) is expected
