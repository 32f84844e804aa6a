import json

import pytest

from secateur.report.escaping import in_html, in_label, in_script

HOSTILE = "<img src=x onerror=alert(1)> & </script><!-- \u2028 %{customdata} $x$"


def test_html_has_no_tags_of_others():
    assert "<" not in in_html(HOSTILE)
    assert '"' not in in_html('a"b')
    assert "\0" not in in_html("a\0b")


def test_labels_have_neither_tags_nor_templates():
    label = in_label(HOSTILE)
    assert "<" not in label
    assert "%{" not in label
    assert len(in_label("x" * 5000)) <= 120


@pytest.mark.parametrize("text", [HOSTILE, "]]>", "\ud800"])
def test_json_in_a_script_cannot_end_it_and_reads_back_as_it_was(text):
    written = in_script({"name": text})
    assert not set("<>&\u2028\u2029") & set(written)
    assert json.loads(written) == {"name": text}
