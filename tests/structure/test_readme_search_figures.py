"""What the README says the search is worth is what the benchmarks wrote."""

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "benchmarks" / "results"


def record(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def rows(*columns: str) -> list[dict[str, str]]:
    """Find the rows of a table by what each of its cells looks like."""
    pattern = r"^\| " + r" \| ".join(columns) + r" \|$"
    return [match.groupdict() for match in re.finditer(pattern, README, flags=re.MULTILINE)]


REGRETS = rows(
    r"(?P<keep>0\.\d)",
    r"(?P<secateur>0\.\d{4}) \((?P<low>0\.\d{4}) to (?P<high>0\.\d{4})\)",
    r"(?P<share>0\.\d\d)",
    r"(?P<evolutionary>0\.\d{4})",
    r"(?P<random>0\.\d{4})",
)
DROPS = rows(
    r"(?P<limit>\d+) %",
    r"(?P<held>\d+) of (?P<seeds>\d+)",
    r"(?P<drop>[\d.]+) % \((?P<drop_low>[\d.]+) to (?P<drop_high>[\d.]+)\)",
    r"(?P<kept>0\.\d{3}) \((?P<kept_low>0\.\d{3}) to (?P<kept_high>0\.\d{3})\)",
    r"(?P<smallest>0\.\d{3})",
)
TAUS = rows(
    r"(?P<keep>0\.\d), (?P<predictor>[a-z ]+), (?P<known>[a-z ]+)",
    *(rf"(?P<pairs_{count}>\.\d{{3}})" for count in (25, 50, 100, 200)),
)


def test_the_tables_have_their_rows() -> None:
    assert [row["keep"] for row in REGRETS] == ["0.8", "0.5"]
    assert [row["limit"] for row in DROPS] == ["5", "20", "50"]
    assert [row["keep"] for row in TAUS] == ["0.8", "0.8", "0.5", "0.5"]


@pytest.mark.parametrize("row", REGRETS, ids=lambda row: row["keep"])
def test_regrets(row: dict[str, str]) -> None:
    regrets = {}
    for each in record("regret-stories260k")["rows"]:
        if each["keep"] == float(row["keep"]):
            regrets[each["search"]] = [kl - each["best_known"] for kl in each["kl"]]
    own, random = regrets["secateur, 60"], statistics.mean(regrets["random, 300"])
    assert float(row["secateur"]) == pytest.approx(statistics.mean(own), abs=6e-5)
    assert float(row["low"]) == pytest.approx(min(own), abs=6e-5)
    assert float(row["high"]) == pytest.approx(max(own), abs=6e-5)
    assert float(row["share"]) == pytest.approx(statistics.mean(own) / random, abs=6e-3)
    assert float(row["evolutionary"]) == pytest.approx(statistics.mean(regrets["evolutionary, 180"]), abs=6e-5)
    assert float(row["random"]) == pytest.approx(random, abs=6e-5)


@pytest.mark.parametrize("row", DROPS, ids=lambda row: row["limit"])
def test_drops(row: dict[str, str]) -> None:
    found = record("max-drop-stories260k")
    runs = [run for run in found["runs"] if run["limit"] == f"{row['limit']}%"]
    assert int(row["seeds"]) == len(runs)
    assert int(row["held"]) == sum(100 * run["drop"] <= float(row["limit"]) for run in runs)
    for name, form in (("drop", 100), ("kept", 1)):
        values = [form * run[name] for run in runs]
        shown = [float(row[name]), float(row[f"{name}_low"]), float(row[f"{name}_high"])]
        assert shown == pytest.approx(
            [statistics.median(values), min(values), max(values)], abs=0.051 if form > 1 else 6e-4
        )
    assert float(row["smallest"]) == pytest.approx(found["smallest"][f"{row['limit']}%"], abs=6e-4)


@pytest.mark.parametrize("row", TAUS, ids=lambda row: f"{row['keep']}, {row['known']}")
def test_rank_correlations(row: dict[str, str]) -> None:
    label = row["predictor"] + ("" if row["known"].startswith("sensitivities") else f", {row['known']}")
    measured = record("predictors")[f"stories260k-{row['keep']}"]["predictors"][label]["tau"]
    for count in (25, 50, 100, 200):
        assert float(row[f"pairs_{count}"]) == pytest.approx(measured[str(count)], abs=6e-4)


def test_two_groups() -> None:
    runs = record("groups-stories260k")["runs"]
    left = [f"{run['disparity_ratio']:.2f}".removeprefix("0") for run in runs]
    paid = [f"{100 * (run['mean_perplexity_ratio'] - 1):.1f}" for run in runs]
    shares, prices = (f"{', '.join(values[:-1])} and {values[-1]}" for values in (left, paid))
    assert f"falls to {shares} of it for {prices} % of mean perplexity (seeds 0 to {len(runs) - 1})" in README
