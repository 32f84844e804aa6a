"""Examples in the docstrings of the Python API, and on its page, give what they say."""

import doctest
import inspect
from pathlib import Path

import pytest

import secateur

ROOT = Path(__file__).parents[2]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run where files may be left."""
    monkeypatch.chdir(tmp_path)


def examples_of(name: str) -> list[doctest.DocTest]:
    public = getattr(secateur, name)
    if not (inspect.isfunction(public) or inspect.isclass(public)):
        return []
    found = doctest.DocTestFinder(exclude_empty=True).find(inspect.unwrap(public), name, globs={})
    return [test for test in found if test.examples]


def run(test: doctest.DocTest) -> None:
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    runner.run(test, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)


def test_the_page_of_the_python_api() -> None:
    page = ROOT / "docs/python.md"
    # A fence ends an example, which doctest would take for what is expected.
    text = page.read_text().replace("```", "")
    run(doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0))


# A whole run; that of the page is one too.
SLOW = {"prune"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name in secateur.__all__
        if examples_of(name)
    ],
)
def test_examples_in_docstrings(name: str) -> None:
    for test in examples_of(name):
        run(test)


def test_there_are_examples() -> None:
    assert {"prune", "open_run", "dense_model", "token_sets", "search_space"} <= {
        name for name in secateur.__all__ if examples_of(name)
    }
