import json
from pathlib import Path

import jsonschema
import pytest

from secateur.report.record import report_schema

SCHEMA = Path(__file__).parents[3] / "docs" / "report.schema.json"
WRITE = "write what secateur.report.record.report_schema gives"


def test_the_committed_schema_is_current():
    assert SCHEMA.read_text() == report_schema(), WRITE


def test_a_report_is_valid_and_one_with_a_wrong_type_is_not(report):
    schema, written = json.loads(report_schema()), json.loads(report.model_dump_json())
    jsonschema.validate(written, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(written | {"rows": "many"}, schema)
