"""`comparison.json`: what every method of a comparison came to, and the same as tables."""

import statistics
from collections.abc import Sequence

from pydantic import Field
from rich.box import SIMPLE_HEAD
from rich.table import Table

from secateur.evaluation.perplexity import Perplexity
from secateur.presets import PRESETS
from secateur.schema import Record
from secateur.search.ji2023 import PaperRecord
from secateur.space.architecture import Architecture

VARIANTS = {
    "published": "as published",
    "none": "same order, no reconstruction",
    "default": "same order and reconstruction",
}


class Cell(Record):
    """One method, in one order and with one reconstruction, at one budget, with one seed.

    A method that cannot meet the budget has a reason and no figures.
    """

    name: str = Field(description="folder of the cell")
    method: str = Field(description="`search.method`")
    importance: str = Field(description="`pruning.importance`")
    reconstruction: str = Field(description="`pruning.reconstruction`")
    keep: float
    seed: int
    failure: str | None = Field(None, description="why there are no figures")
    perplexity: Perplexity | None = Field(None, description="on the evaluation set")
    texts: dict[str, Perplexity] = Field(default_factory=dict, description="on the other evaluation texts, by name")
    kl: float | None = Field(None, description="KL(dense || model) on the evaluation set, nats per token")
    selection_kl: float | None = Field(None, description="as measured in the search, nats per token")
    architecture: Architecture | None = None
    decoder_parameters: int | None = None
    num_measurements: int | None = None
    best_so_far: tuple[float, ...] = Field((), description="lowest selection KL at the budget after each measurement")
    kendall_tau: float | None = Field(None, description="of the method's predictor at the budget, where it has one")
    paper: PaperRecord | None = None
    seconds: float | None = None


class Comparison(Record):
    """The outcome of `secateur compare`."""

    secateur: str
    versions: dict[str, str]
    machine: dict[str, str | int]
    model: str
    made_at: str
    settings: dict[str, object] = Field(description="configuration that all cells share, folders left out")
    num_tokens: dict[str, int]
    fingerprints: dict[str, str]
    methods: tuple[str, ...] = Field(description="presets compared")
    keeps: tuple[float, ...]
    seeds: tuple[int, ...]
    dense: dict[str, Perplexity] = Field(description="perplexity of the dense model, by text")
    dense_decoder_parameters: int
    cells: tuple[Cell, ...] = Field((), description="in the order in which they were made")
    finished: bool = False
    rows: dict[str, dict[str, str]] = Field(
        description="per preset, per variant (published, none, default): what cells begin with"
    )

    def of(self, preset: str, variant: str, keep: float) -> list[Cell]:
        """Give the cells of a method at a budget, one per seed; none where the variant does not apply."""
        prefix = self.rows.get(preset, {}).get(variant)
        return [
            cell
            for cell in self.cells
            if prefix == f"{cell.method}-{cell.importance}-{cell.reconstruction}" and cell.keep == keep
        ]


def values_of(cells: Sequence[Cell], text: str | None = None) -> list[float]:
    """Give perplexities on the evaluation set, or on one of the other texts."""
    found = [cell.texts.get(text) if text else cell.perplexity for cell in cells]
    return [perplexity.value for perplexity in found if perplexity is not None]


def rivals(comparison: Comparison, variant: str, keep: float, text: str | None = None) -> dict[str, float]:
    """Give the median perplexity of every other method in a variant, best first."""
    medians = {
        preset: statistics.median(values)
        for preset in comparison.methods
        if preset != "secateur" and (values := values_of(comparison.of(preset, variant, keep), text))
    }
    return dict(sorted(medians.items(), key=lambda item: item[1]))


def comparison_table(comparison: Comparison, keep: float, text: str | None = None) -> Table:
    """One row per method, one column per variant: median perplexity over seeds, lowest to highest.

    As narrow as a terminal; `comparison_markdown` has the parameter counts as well.
    """
    dense = comparison.dense[text or "evaluation"]
    title = f"{comparison.model} at {keep:g} of its decoder parameters, {text or 'evaluation set'} ({dense.protocol})"
    table = Table(
        title=title,
        caption=f"perplexity, median of {len(comparison.seeds)} seeds (lowest to highest); dense {dense.value:.2f}; "
        f"{dense.num_windows} windows",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
    )
    table.add_column("method", no_wrap=True)
    for title in ("as\npublished", "same order,\nuntouched", "same order,\nreconstructed", "meas-\nured"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, *figures, _kept, measured in table_rows(comparison, keep, text):
        narrow = [figure.replace(" to ", "-") for figure in figures]
        table.add_row(name, *narrow, measured, style="bold" if name == PRESETS["secateur"].title else "")
    return table


def table_rows(comparison: Comparison, keep: float, text: str | None = None) -> list[tuple[str, ...]]:
    """Give the body of the table, methods in the order of their presets."""
    rows = []
    for preset in comparison.methods:
        by_variant = {variant: comparison.of(preset, variant, keep) for variant in VARIANTS}
        if not any(by_variant.values()):
            continue
        cells = [cell for each in by_variant.values() for cell in each if cell.decoder_parameters]
        kept = [cell.decoder_parameters / comparison.dense_decoder_parameters for cell in cells]  # type: ignore[operator]
        counts = [cell.num_measurements for cell in cells if cell.num_measurements]
        rows.append(
            (
                PRESETS[preset].title,
                *(_spread(each, text) for each in by_variant.values()),
                f"{statistics.median(kept):.4f}" if kept else "",
                str(max(counts)) if counts else "",
            )
        )
    return rows


def _spread(cells: Sequence[Cell], text: str | None) -> str:
    values = values_of(cells, text)
    if not values:
        return "cannot" if any(cell.failure for cell in cells) else ""
    middle, low, high = map(_digits, (statistics.median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def _digits(value: float) -> str:
    """Four digits, but no decimals from 100 on: a row has to fit a terminal."""
    return f"{value:.4g}" if value < 100 else f"{value:.0f}"


def verdict_lines(comparison: Comparison, text: str | None = None) -> list[str]:
    """Say per budget how Secateur stands against the best others, also where it loses."""
    lines = []
    for keep in comparison.keeps:
        own = values_of(comparison.of("secateur", "default", keep), text)
        if not own:
            continue
        middle = statistics.median(own)
        parts = []
        for variant, name in (("default", "same order and reconstruction"), ("published", "as published")):
            others = rivals(comparison, variant, keep, text)
            if others:
                best, value = next(iter(others.items()))
                parts.append(f"{middle / value:.3f} of the best other {name} ({PRESETS[best].title}, {value:.4g})")
        uniform = values_of(comparison.of("llm-pruner", "published", keep), text)
        if uniform:
            parts.append(f"{middle / statistics.median(uniform):.3f} of uniform LLM-Pruner")
        lines.append(f"{keep:g} kept{f', {text}' if text else ''}: Secateur {middle:.4g}; " + "; ".join(parts))
    return lines


def comparison_markdown(comparison: Comparison) -> str:
    """Write all tables and verdicts as Markdown."""
    parts = [f"# {comparison.model}: methods side by side\n"]
    measured_on = ", ".join(f"{count:,} {name} tokens" for name, count in comparison.num_tokens.items())
    parts.append(f"Secateur {comparison.secateur}, {comparison.made_at}; {measured_on}; seeds {comparison.seeds}.\n")
    for text in (None, *(name for name in comparison.dense if name != "evaluation")):
        for keep in comparison.keeps:
            dense = comparison.dense[text or "evaluation"]
            parts.append(f"## {keep:g} kept, {text or 'evaluation set'}\n")
            parts.append(f"Perplexity ({dense.protocol}), median over seeds; dense {dense.value:.3f}.\n")
            head = ("method", *VARIANTS.values(), "kept", "measured")
            lines = [head, ("---",) * len(head), *table_rows(comparison, keep, text)]
            parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n")
        parts.append("\n".join(f"- {line}" for line in verdict_lines(comparison, text)) + "\n")
    failures = sorted({f"{cell.name}: {cell.failure}" for cell in comparison.cells if cell.failure})
    if failures:
        parts.append("## Could not meet the budget\n\n" + "\n".join(f"- {failure}" for failure in failures) + "\n")
    return "\n".join(parts)
