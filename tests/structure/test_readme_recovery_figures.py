"""What the README says that recovery gives back is what the benchmarks wrote."""

import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "benchmarks" / "results"
RANGE = r"(\d?\.\d\d) \((\d?\.\d\d) to (\d?\.\d\d)\)"
ROWS = re.findall(
    rf"^\| (demo|stories260K), (0\.\d) kept \| (\d?\.\d+) \| {RANGE} \| {RANGE} \| {RANGE} \| {RANGE} \| (\d+) \|$",
    README,
    flags=re.MULTILINE,
)
DOMAINS = re.findall(
    r"^\| (plain|groups|ratio|p-dro)(, twice the tokens)? \| (-?\.\d{3}) \| (\.\d{3}) \| (\.\d{3}) "
    r"\| (\d?\.?\d*) (?:\(.+\) )?\| (\d?\.?\d*) \| ([\d.]+) \|$",
    README,
    flags=re.MULTILINE,
)

SCRATCH = re.findall(
    r"^\| (demo|stories260K), (0\.\d) kept \|((?: [\d.]+ \([\d.]+ to [\d.]+\) \|){6})$", README, flags=re.MULTILINE
)
SCRATCH_WAYS = (
    "recovered, lora",
    "recovered, full",
    "scratch, pruned architecture, 1x",
    "scratch, layers alike, 1x",
    "scratch, pruned architecture, 4x",
    "scratch, layers alike, 4x",
)


def record(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def test_the_tables_have_their_rows() -> None:
    assert [(row[0], row[1]) for row in ROWS] == [
        ("demo", "0.7"),
        ("demo", "0.5"),
        ("stories260K", "0.7"),
        ("stories260K", "0.5"),
    ]
    assert [row[0] for row in DOMAINS] == ["plain", "groups", "ratio", "p-dro", "plain", "groups"]
    assert [bool(row[1]) for row in DOMAINS] == [False] * 4 + [True] * 2


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[1]}")
def test_what_is_closed(row: tuple[str, ...]) -> None:
    name, keep, excess, *figures, seconds = row
    ways: dict[str, list[dict[str, Any]]] = {}
    for key, cell in record("recovery")["cells"].items():
        of, kept, _, way = key.split("/")
        if (of, kept) == (name.lower(), keep):
            ways.setdefault(way, []).append(cell)
    lora = ways["lora"]
    assert len(lora) == 3
    before = [cell["evaluation"]["before"] - cell["evaluation"]["dense"] for cell in lora]
    assert float(excess) == pytest.approx(statistics.median(before), abs=6e-4)
    assert int(seconds) == pytest.approx(statistics.median([cell["seconds"] for cell in lora]), abs=0.6)
    shown = [tuple(map(float, figures[place : place + 3])) for place in range(0, len(figures), 3)]
    closed = ("lora", "lora, text alone")
    left = ("lora, an eighth of the tokens", "lora, an eighth, from plainly cut")
    found = [[cell["closed"] for cell in ways[way]] for way in closed]
    found += [[cell["left_of_reconstructed"] for cell in ways[way]] for way in left]
    for values, (median, low, high) in zip(found, shown, strict=True):
        assert median == pytest.approx(statistics.median(values), abs=6e-3)
        assert (low, high) == pytest.approx((min(values), max(values)), abs=6e-3)


@pytest.mark.parametrize("row", DOMAINS, ids=lambda row: row[0] + row[1])
def test_domains(row: tuple[str, ...]) -> None:
    way, twice, story, arithmetic, lists, worst, mean, perplexity = row
    whole = record("recovery-robust-262144" if twice else "recovery-robust")
    cells = {key.split("/")[1]: each for key, each in whole["cells"].items() if key.endswith(f"/{way}")}
    plain = {key.split("/")[1]: each for key, each in whole["cells"].items() if key.endswith("/plain")}
    assert len(cells) == 3
    for domain, shown in (("story", story), ("arithmetic", arithmetic), ("lists", lists)):
        found = statistics.median(each["after"]["evaluation"][domain] for each in cells.values())
        assert float(shown) == pytest.approx(found, abs=6e-4)

    def ratio(seed: str, of: Any) -> float:
        return of(cells[seed]["after"]["evaluation"]) / of(plain[seed]["after"]["evaluation"])

    def given(excess: dict[str, float]) -> float:
        return sum(share * excess[name] for name, share in whole["mixture"].items())

    def worst_of(excess: dict[str, float]) -> float:
        return max(excess.values())

    def mean_of(excess: dict[str, float]) -> float:
        return statistics.mean(excess.values())

    assert float(worst) == pytest.approx(statistics.median(ratio(seed, worst_of) for seed in cells), abs=6e-3)
    assert float(mean) == pytest.approx(statistics.median(ratio(seed, mean_of) for seed in cells), abs=6e-3)
    more = [math.exp(given(cells[s]["after"]["evaluation"]) - given(plain[s]["after"]["evaluation"])) for s in cells]
    assert float(perplexity) == pytest.approx(statistics.median(more), abs=6e-4)


def test_tuning() -> None:
    said = re.search(
        r"Spearman correlation of (\.\d\d) \((\.\d\d) to (\.\d\d)\).*?, (\.\d{3}) and (\.\d{3}) nats better "
        r"in the median and (\.\d{3}) and (\.\d{3}) at most, for (\.\d\d) of the tokens",
        README,
        flags=re.DOTALL,
    )
    assert said is not None
    cells = record("recovery-tuning")["cells"].values()
    spearman, tokens = [cell["spearman"] for cell in cells], [cell["tokens_ratio"] for cell in cells]
    gained = [[cell[of]["default"] - cell[of]["tuned"] for cell in cells] for of in ("selection", "evaluation")]
    assert min(map(min, gained)) >= 0, "never worse"
    found = [statistics.median(spearman), min(spearman), max(spearman)]
    found += [*map(statistics.median, gained), *map(max, gained), statistics.median(tokens)]
    assert [float(each) for each in said.groups()] == pytest.approx(found, abs=6e-3)
    assert [float(each) for each in said.groups()[3:7]] == pytest.approx(found[3:7], abs=6e-4)


def test_soups() -> None:
    said = re.search(
        r"of other seeds (\.\d{3}) nats better .+? at 0\.7 kept and (\.\d{3}) at 0\.5, of other learning "
        r"rates (\.\d{3}) and (\.\d{3})",
        README,
    )
    assert said is not None
    gained: dict[tuple[str, str], list[float]] = {}
    for key, cell in record("recovery-soup")["cells"].items():
        for kind, losses in cell["kinds"].items():
            assert losses["greedy"]["selection"] <= losses["best"]["selection"]
            better = losses["best"]["evaluation"] - losses["greedy"]["evaluation"]
            gained.setdefault((kind, key.split("/")[1]), []).append(better)
    order = [("seeds", "0.7"), ("seeds", "0.5"), ("rates", "0.7"), ("rates", "0.5")]
    found = [statistics.median(gained[each]) for each in order]
    assert [float(each) for each in said.groups()] == pytest.approx(found, abs=6e-4)


def test_there_are_rows_from_scratch() -> None:
    kept = {tuple(key.split("/")[:2]) for key in record("recovery-scratch")["cells"]}
    assert {(name.lower(), keep) for name, keep, _ in SCRATCH} == kept


@pytest.mark.parametrize("row", SCRATCH, ids=lambda row: f"{row[0]}-{row[1]}")
def test_from_scratch(row: tuple[str, str, str]) -> None:
    name, keep, shown = row
    cells = [
        cell for key, cell in record("recovery-scratch")["cells"].items() if key.startswith(f"{name.lower()}/{keep}/")
    ]
    assert len(cells) == 3
    for way, figures in zip(SCRATCH_WAYS, re.findall(r"([\d.]+) \(([\d.]+) to ([\d.]+)\)", shown), strict=True):
        ratios = [math.exp(cell["ways"][way]["evaluation"] - cell["dense"]) for cell in cells]
        found = (statistics.median(ratios), min(ratios), max(ratios))
        assert tuple(map(float, figures)) == pytest.approx(found, abs=6e-3 if "recovered" in way else 6e-2)
