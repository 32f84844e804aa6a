"""What a recovery by itself says of its result: a table on the terminal, and the model's card."""

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import yaml
from rich.box import SIMPLE_HEAD
from rich.table import Table

from secateur.evaluation.perplexity import Perplexity
from secateur.recovery.recover import RecoveryRecord


@runtime_checkable
class Row(Protocol):
    """A model on the evaluation windows."""

    @property
    def name(self) -> str: ...

    @property
    def num_parameters(self) -> int: ...

    @property
    def perplexity(self) -> Perplexity: ...


def recovery_table(title: str, rows: Sequence[Row]) -> Table:
    """One row per model, all on the same evaluation windows."""
    protocol = rows[0].perplexity
    table = Table(
        title=title,
        caption=f"{protocol.num_windows} evaluation windows, {protocol.protocol}, which chose nothing",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
    )
    table.add_column("model", no_wrap=True)
    for name in ("parameters", "perplexity", f"± {protocol.confidence:.0%}"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        said = row.perplexity
        table.add_row(
            row.name,
            f"{row.num_parameters:,}",
            f"{said.value:.2f}",
            f"{(said.high - said.low) / 2:.2f}",
            style="bold" if row is rows[-1] else "",
        )
    return table


def recovered_line(rows: Sequence[Row], record: RecoveryRecord) -> str:
    """Say what the training gave back, and what it took."""
    log = {row.name: math.log(row.perplexity.value) for row in rows}
    share = ""
    if "dense" in log and log["pruned"] > log["dense"]:
        closed = (log["pruned"] - log["recovered"]) / (log["pruned"] - log["dense"])
        share = f"; {closed:.0%} of the excess log-perplexity over dense is gone"
    training = record.training
    kept = "" if training.best_step else "; no step made it better on the selection set, so it stays as it was"
    return (
        f"{record.recipe.method}, {record.trained_parameters:,} parameters trained on {training.tokens:,} tokens in "
        f"{training.seconds:.0f} s{share}{kept}"
    )


def recovered_card(model_name: str, dtype: str, rows: Sequence[Row], record: RecoveryRecord) -> str:
    """Write the card in Markdown."""
    perplexity = rows[-1].perplexity
    table = "\n".join(
        f"| {row.name} | {row.num_parameters:,} | {row.perplexity.value:.3f} "
        f"({row.perplexity.low:.3f} to {row.perplexity.high:.3f}) |"
        for row in rows
    )
    recipe = yaml.safe_dump(record.recipe.model_dump(mode="json"), sort_keys=False)
    return f"""---
tags: [pruned, recovered, secateur]
---

# {model_name}, recovered by a short training

Made by Secateur from the pruned model `{model_name}`, stored in {dtype}: {recovered_line(rows, record)}. It loads as
the pruned model does.

| model | parameters | perplexity (interval) |
|---|---|---|
{table}

Perplexity is {perplexity.protocol} on {perplexity.num_windows} held-out windows; the interval is a bootstrap over
windows at {perplexity.confidence:.0%}. It says nothing about tasks: measure yours before you use the model.

## Trained with

```yaml
{recipe.rstrip()}
```
"""
