"""What a soup is made of and worth: soup.json, the model card, and the table for a terminal."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field
from rich.box import SIMPLE_HEAD
from rich.table import Table

from secateur.evaluation.paired import PairedComparison
from secateur.evaluation.perplexity import Perplexity
from secateur.recovery.soup import Tasting
from secateur.schema import Record

COLUMNS = ("model", "in it", "selection loss", "perplexity", "interval")


class Judged(Record):
    """What text says of a model: what chooses, and what is reported."""

    selection_loss: float = Field(description="nats per token; an ingredient's where greedy chooses by it")
    perplexity: Perplexity = Field(description="on the evaluation windows, which choose nothing")


class IngredientRecord(Record):
    """A finished recovery that was offered."""

    name: str = Field(description="last parts of its folder's path, as many as tell it from the others")
    fingerprint: str = Field(description="of all bytes of its weights")
    used: bool = Field(description="whether it went in")
    judged: Judged | None = Field(description="null where no text was given")


class SoupReport(Record):
    """`soup.json`."""

    secateur: str = Field(description="version")
    method: Literal["greedy", "uniform"]
    base: str | None = Field(description="what adapters were merged into; null where no ingredient is an adapter")
    base_fingerprint: str | None
    ingredients: tuple[IngredientRecord, ...] = Field(description="in the order in which they were given")
    tried: tuple[Tasting, ...] = Field(description="by greedy, in order; empty for uniform")
    soup: Judged | None = Field(description="null where no text was given")
    best: int | None = Field(description="place of the ingredient with the least selection loss")
    comparison: PairedComparison | None = Field(description="the soup against that ingredient, evaluation windows")
    data: tuple[str, ...] = Field(description="names of the texts")
    selection_tokens: int = Field(description="of the share of the documents that chooses")
    evaluation_tokens: int = Field(description="of the share of the documents that is reported on")
    dtype: str = Field(description="in which the weights are stored")
    class_name: str = Field(description="as a fresh process loaded it")
    remote_code: bool = Field(description="loading runs a file of the folder")
    num_parameters: int
    max_logit_difference: float = Field(description="between that process and this one")

    @property
    def num_used(self) -> int:
        return sum(each.used for each in self.ingredients)

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Give the cells of `COLUMNS`: ingredients, then the soup."""
        for each in self.ingredients:
            yield (each.name, "yes" if each.used else "no", *_cells(each.judged))
        yield (f"{self.method} soup", f"{self.num_used} of {len(self.ingredients)}", *_cells(self.soup))


def number_of(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _cells(judged: Judged | None) -> tuple[str, str, str]:
    if judged is None:
        return ("", "", "")
    seen = judged.perplexity
    return (f"{judged.selection_loss:.4f}", f"{seen.value:.5g}", f"{seen.low:.5g} to {seen.high:.5g}")


def soup_table(report: SoupReport) -> Table:
    """One row per ingredient, and the soup's."""
    table = Table(
        title="soup",
        caption=how_judged(report),
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
    )
    table.add_column(COLUMNS[0], overflow="fold", min_width=len("uniform soup"))
    for title in COLUMNS[1:]:
        table.add_column(title, justify="right", no_wrap=True)
    for cells in report.rows():
        table.add_row(*cells)
    return table


def how_judged(report: SoupReport) -> str:
    """Say what text chose, and what text is reported on."""
    if report.soup is None:
        return "no text was given, so nothing was measured"
    seen = report.soup.perplexity
    chose = "chose what went in" if report.method == "greedy" else "chose nothing here"
    return (
        f"selection: {report.selection_tokens:,} tokens, {chose}; nats per token\n"
        f"evaluation: {report.evaluation_tokens:,} tokens of other documents, which choose nothing; {seen.protocol}, "
        f"{seen.confidence:.0%} bootstrap over {seen.num_windows} windows"
    )


def verdict(report: SoupReport) -> str | None:
    """Say how the soup does beside its best ingredient; None where no text was given."""
    seen = report.comparison
    if seen is None:
        return None
    if report.num_used == 1:
        return f"no other ingredient made {seen.second} better on the selection set: the soup is that ingredient"
    return (
        f"the soup against {seen.second}, on the evaluation windows: {seen.difference:+.4f} nats per token "
        f"({seen.low:+.4f} to {seen.high:+.4f}), p = {seen.p_value:.2g}"
    )


def soup_card(report: SoupReport, loading_lines: tuple[str, ...]) -> str:
    """Write the model card: how it loads, what it is made of, what that is worth."""
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in report.rows())
    loading = "\n".join(loading_lines)
    how = {
        "greedy": "their mean, to which each was added, best first, where it did no worse on the selection set",
        "uniform": "the mean of all",
    }[report.method]
    on_base = f" Adapters were merged into `{report.base}` first." if report.base else ""
    fingerprints = "\n".join(f"- `{each.name}`: weights {each.fingerprint}" for each in report.ingredients)
    return f"""---
library_name: transformers
tags: [merge, model-soup, secateur]
---

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

{loading}
```

# A soup of {number_of(report.num_used, "model")}

Made by Secateur {report.secateur} from {report.num_used} of {len(report.ingredients)} finished recoveries
of the same pruned model: {how} (model soups, arXiv 2203.05482). Averaged in float64, and rounded once to
{report.dtype}.{on_base}

| {" | ".join(COLUMNS)} |
|{"---|" * len(COLUMNS)}
{table}

{how_judged(report)}

{verdict(report) or ""}

Perplexity says nothing about tasks: measure yours before you use the model. `soup.json` holds all of this.

{fingerprints}
"""
