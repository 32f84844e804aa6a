import pytest
from pydantic import ValidationError

from secateur.space.architecture import Architecture, LayerShape
from secateur.space.candidate import Candidate, Measurement, Protocol


def test_the_key_is_the_same_on_every_machine_and_in_every_version():
    """A stored run is found again by this digest: if it changes, so must the format of the run folder."""
    assert Architecture.from_widths((4, 48, 0, 24, 2, 40)).key == "666ced6840e7d3c9"


def test_the_key_tells_architectures_apart():
    widths = [(4, 48, 4, 48), (4, 48, 4, 40), (48, 4, 48, 4), (4, 48)]
    assert len({Architecture.from_widths(each).key for each in widths}) == len(widths)


def test_json_holds_all_of_it(architecture):
    read = Architecture.model_validate_json(architecture.model_dump_json())
    assert read == architecture
    assert read.key == architecture.key


def test_fields_that_are_not_known_are_refused():
    with pytest.raises(ValidationError, match="rank"):
        Architecture.model_validate({"layers": [{"kv_heads": 1, "ffn_width": 2, "rank": 3}]})
    with pytest.raises(ValidationError, match="extra"):
        LayerShape(kv_heads=1, ffn_width=2, extra=3)


def test_an_architecture_does_not_change(architecture):
    with pytest.raises(ValidationError, match="frozen"):
        architecture.layers = ()


def test_widths_are_in_module_order(prepared):
    architecture = Architecture(layers=(LayerShape(kv_heads=1, ffn_width=2), LayerShape(kv_heads=3, ffn_width=4)))
    assert architecture.widths == (1, 2, 3, 4)
    assert Architecture.from_widths((1, 2, 3, 4)) == architecture


def test_an_odd_number_of_widths_is_no_architecture():
    with pytest.raises(ValueError, match="zip"):
        Architecture.from_widths((1, 2, 3))


def test_kept_ratios_are_shares_of_the_dense_groups(prepared):
    architecture = Architecture.from_widths((4, 24, 0, 48, 1, 12))
    assert architecture.kept_ratios(prepared.dense.shape) == (1, 0.5, 0, 1, 0.25, 0.25)
    assert set(Architecture.dense(prepared.dense.shape).kept_ratios(prepared.dense.shape)) == {1.0}


def test_candidates_and_measurements_survive_json(architecture):
    candidate = Candidate(architecture=architecture, origin="sampled", round=0, parameter_reduction=0.25)
    assert Candidate.model_validate_json(candidate.model_dump_json()) == candidate
    failed = Measurement(architecture=architecture, protocol="p", status="failed", reason="kl=nan", seconds=1.5)
    assert Measurement.model_validate_json(failed.model_dump_json()) == failed


def test_any_difference_of_protocol_gives_another_key():
    base = Protocol(model="m", tokens="t", num_tokens=8, sequence_length=4, dtype="torch.float32", bank="b")
    others = [
        base.model_copy(update=change)
        for change in (
            {"model": "x"},
            {"tokens": "x"},
            {"num_tokens": 9},
            {"sequence_length": 2},
            {"dtype": "x"},
            {"bank": "x"},
        )
    ]
    assert len({protocol.key for protocol in [base, *others]}) == 7
