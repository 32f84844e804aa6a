"""Counts the inputs that readers and spaces were given, and says how many in the end."""

from collections.abc import Iterator
from functools import wraps
from typing import Any

import pytest

INPUTS = "inputs"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: Any) -> Iterator[None]:
    # Where hypothesis lets others wrap what it calls once per input.
    fuzzed = getattr(getattr(item, "obj", None), "hypothesis", None)
    if fuzzed is None:
        return (yield)
    test, count = fuzzed.inner_test, 0

    @wraps(test)
    def counted(*given: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        return test(*given, **named)

    fuzzed.inner_test = counted
    try:
        return (yield)
    finally:
        fuzzed.inner_test = test
        item.user_properties.append((INPUTS, count))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    counts = [
        value
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == INPUTS
    ]
    if counts:
        terminalreporter.write_line(f"{sum(counts):,} inputs in {len(counts)} tests that passed")
