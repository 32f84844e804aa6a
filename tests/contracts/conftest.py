"""With `--write-families`, what the contract of families has shown in this run goes into the README's table."""

from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest

from secateur.model.families import FAMILIES

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- families: written by `make families` -->\n", "<!-- families end -->\n"
COLUMNS = {
    "TestPrunes": "prunes",
    "TestUniformExport": "uniform export",
    "TestPerLayerExport": "per-layer export",
    "TestPaddedExport": "padded export",
    "TestGguf": "GGUF",
}
HEADS = {"any": "any number of heads", "dividing": "heads that divide the hidden size", "dense": "all heads"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-families", action="store_true", help="write the README's table of families")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    family = parameters.get("family") or parameters.get("prepared", ("",))
    family = family if isinstance(family, str) else family[0]
    column = COLUMNS.get(getattr(getattr(item, "cls", None), "__name__", ""))
    if family in FAMILIES and column and report.when == "call":
        report.user_properties.append(("cell", (family, column)))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.getoption("--write-families", default=False):
        return
    outcomes: dict[tuple[str, str], set[str]] = defaultdict(set)
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for cell in (value for name, value in report.user_properties if name == "cell"):
                outcomes[tuple(cell)].add(outcome)
    lines = [f"| family | {' | '.join(COLUMNS.values())} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for name in FAMILIES:
        cells = [_cell(name, column, outcomes[name, column]) for column in COLUMNS.values()]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    text = README.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    README.write_text(f"{before}{BEGIN}{chr(10).join(lines)}\n{END}{after}")
    terminalreporter.write_line(f"wrote the table of {len(FAMILIES)} families into {README.name}")


def _cell(family: str, column: str, outcomes: set[str]) -> str:
    if column == "GGUF" and not FAMILIES[family].llama_form:
        return "no"
    if outcomes != {"passed"}:
        return "fails" if outcomes else "not run"
    stock = FAMILIES[FAMILIES[family].uniform_as].stock_heads
    return HEADS[stock] if column == "uniform export" else "yes"
