import pytest
from pydantic import ValidationError

from secateur.report.record import Report


def test_a_report_survives_its_file(report):
    assert Report.model_validate_json(report.model_dump_json(indent=2)) == report


def test_keys_that_are_not_known_are_refused(report):
    with pytest.raises(ValidationError, match="score"):
        Report.model_validate(report.model_dump() | {"score": 1})


def test_rows_are_found_by_name(report):
    assert report.row("uniform").perplexity.value == 32.0
    with pytest.raises(StopIteration):
        report.row("nothing")
