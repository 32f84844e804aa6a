"""Which tokens a protocol predicts, and from how much context."""

import pytest

from secateur.errors import ConfigError
from secateur.evaluation.protocols import FORMS, Window, find_protocol


def predicted(protocol, num_tokens):
    return [place for window in protocol.windows(num_tokens) for place in range(window.first, window.end)]


@pytest.mark.parametrize(("length", "stride"), [(8, 3), (8, 1), (8, 7), (4, 2)])
@pytest.mark.parametrize("num_tokens", [2, 7, 8, 9, 40, 41])
def test_sliding_predicts_every_token_after_the_first_once_with_the_context_there_is(length, stride, num_tokens):
    protocol = find_protocol(f"sliding-{length}-{stride}")
    assert predicted(protocol, num_tokens) == list(range(1, num_tokens))
    for window in protocol.windows(num_tokens):
        assert window.end - window.start <= length
        assert window.start == 0 or window.first - window.start >= length - stride


def test_a_stride_as_long_as_the_window_is_ppl_with_the_remainder():
    """Neither predicts the first token of a window; ppl drops what does not fill one."""
    ppl, sliding = find_protocol("ppl-8"), find_protocol("sliding-8-8")
    assert sliding.windows(24) == ppl.windows(24)
    assert sliding.windows(27) == [*ppl.windows(27), Window(24, 25, 27)]
    assert sliding.windows(25) == ppl.windows(25), "a single token that is left over has no context"


def test_windows_that_slide_are_drawn_together_for_about_a_window_of_predictions():
    protocol = find_protocol("sliding-8-2")
    windows = protocol.windows(200)
    blocks = protocol.blocks(windows)
    assert blocks == sorted(blocks)
    assert set(blocks) == set(range(blocks[-1] + 1))
    sizes = [sum(w.end - w.first for w, b in zip(windows, blocks, strict=True) if b == block) for block in set(blocks)]
    assert all(6 <= size <= 10 for size in sizes[:-1])


@pytest.mark.parametrize("name", ["ppl", "ppl-x", "ppl-128-64", "sliding-128", "mmlu", ""])
def test_unknown_names_list_the_forms(name):
    with pytest.raises(ConfigError, match="known forms: " + ", ".join(FORMS)):
        find_protocol(name)


@pytest.mark.parametrize("name", ["ppl-1", "sliding-8-0", "sliding-8-9", "sliding-1-1"])
def test_numbers_that_make_no_sense_are_refused(name):
    with pytest.raises(ConfigError, match=r"2 tokens or more"):
        find_protocol(name)
