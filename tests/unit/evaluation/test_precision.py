import pytest
import torch

from secateur.evaluation.precision import measuring_dtype, multiplies_bfloat16


@pytest.fixture
def processor(monkeypatch):
    def make(**capabilities):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)

    return make


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16"])
def test_auto_is_bfloat16_where_the_processor_has_instructions(make_model, processor, name):
    processor(**{name: True})
    assert measuring_dtype("auto", make_model()) is torch.bfloat16


def test_auto_is_float32_elsewhere(make_model, processor):
    processor(avx2=True, avx512_bf16=False)
    assert measuring_dtype("auto", make_model()) is torch.float32
    processor()
    assert not multiplies_bfloat16(torch.device("cpu"))


@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_what_is_named_is_taken(make_model, processor, wanted):
    processor()
    assert measuring_dtype(wanted, make_model()) is getattr(torch, wanted)


@pytest.mark.parametrize("wanted", ["auto", "float32", "bfloat16"])
def test_a_model_in_16_bits_stays_so(make_model, wanted):
    assert measuring_dtype(wanted, make_model().to(torch.float16)) is torch.float16
