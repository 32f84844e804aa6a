"""Every figure of the README's quality table is the one that the benchmark wrote."""

import json
import re
import statistics
from pathlib import Path

import pytest

from secateur.presets import PRESETS
from secateur.report.comparison import Comparison, rivals, values_of

ROOT = Path(__file__).parents[2]
ROW = re.compile(
    r"^\| (?P<keep>0\.\d+) \| (?P<dense>[\d.]+) \| (?P<uniform>[\d.]+) \| (?P<wide>[\d.]+) "
    r"\| (?P<secateur>[\d.]+) \((?P<low>[\d.]+) to (?P<high>[\d.]+)\) \| (?P<ratio>[\d.]+) \| (?P<left>\d+) % \|$",
    flags=re.MULTILINE,
)
ROWS = [match.groupdict() for match in ROW.finditer((ROOT / "README.md").read_text())]


def test_the_table_has_its_rows() -> None:
    assert [row["keep"] for row in ROWS] == ["0.8", "0.5"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["keep"])
def test_figures_are_those_of_the_benchmark(row: dict[str, str]) -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "stories260k.json").read_text())
    runs = [run for run in record["runs"] if run["keep"] == float(row["keep"])]
    assert len(runs) == 3

    def median(get: str, of: str) -> float:
        return statistics.median(run[get][of] for run in runs)

    shown = {name: float(value) for name, value in row.items()}
    secateur = [run["perplexity"]["secateur"] for run in runs]
    expected = {
        "dense": median("perplexity", "dense"),
        "uniform": median("perplexity", "uniform"),
        "wide": median("perplexity", "uniform-wide"),
        "secateur": statistics.median(secateur),
        "low": min(secateur),
        "high": max(secateur),
        "ratio": median("ratio_to", "uniform"),
        "left": 100 * median("excess_log_perplexity_left", "uniform"),
    }
    for name, value in expected.items():
        decimals = len(row[name].partition(".")[2])
        assert shown[name] == pytest.approx(value, abs=0.51 * 10**-decimals), name


# The comparison of all methods: Secateur, then the best other in the same order and reconstruction, and as published.
COMPARED = re.compile(
    r"^\| (?P<keep>0\.\d+) \| (?P<own>[\d.]+) \((?P<low>[\d.]+) to (?P<high>[\d.]+)\) "
    r"\| (?P<default>[\d.]+) \((?P<default_name>[^)]+)\) \| (?P<default_ratio>[\d.]+) "
    r"\| (?P<published>[\d.]+) \((?P<published_name>[^)]+)\) \| (?P<published_ratio>[\d.]+) "
    r"\| (?P<uniform>[\d.]+) \| (?P<uniform_ratio>[\d.]+) \|$",
    flags=re.MULTILINE,
)
COMPARED_ROWS = [match.groupdict() for match in COMPARED.finditer((ROOT / "README.md").read_text())]


# Which comparison a row is of: the demo model's is at a budget of its own.
NAMES = {"0.9": "stories260k", "0.8": "stories260k", "0.7": "stories260k", "0.5": "stories260k", "0.75": "demo"}


def test_the_comparisons_have_their_rows() -> None:
    assert [row["keep"] for row in COMPARED_ROWS] == list(NAMES)


@pytest.mark.parametrize("row", COMPARED_ROWS, ids=lambda row: row["keep"])
def test_figures_are_those_of_the_comparison(row: dict[str, str]) -> None:
    text = (ROOT / "benchmarks" / "results" / f"compare-{NAMES[row['keep']]}.json").read_text()
    comparison = Comparison.model_validate_json(text)
    assert comparison.finished
    assert len(comparison.seeds) == 3
    keep = float(row["keep"])
    own = values_of(comparison.of("secateur", "default", keep))
    uniform = statistics.median(values_of(comparison.of("llm-pruner", "published", keep)))
    middle = statistics.median(own)
    expected = {"own": middle, "low": min(own), "high": max(own), "uniform": uniform, "uniform_ratio": middle / uniform}
    for variant in ("default", "published"):
        best, value = next(iter(rivals(comparison, variant, keep).items()))
        assert row[f"{variant}_name"] == PRESETS[best].title
        expected |= {variant: value, f"{variant}_ratio": middle / value}
    for name, value in expected.items():
        decimals = len(row[name].partition(".")[2])
        assert float(row[name]) == pytest.approx(value, abs=0.51 * 10**-decimals), name
