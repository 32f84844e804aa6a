"""The model card: how to load the result, first; then what it is and how it was made."""

from secateur.export.form import LoadableForm
from secateur.report.record import BudgetUse, Choice, ModelRow
from secateur.report.rows import budget_text, mlp_title


def model_card(
    model_name: str,
    form: LoadableForm,
    rows: tuple[ModelRow, ...],
    choice: Choice,
    dtype: str,
    config_yaml: str,
    budget: tuple[BudgetUse, ...] = (),
    *,
    whole_experts: bool = False,
) -> str:
    """Write the card in Markdown.

    Args:
        whole_experts: What architectures count of MLPs are experts.
    """
    by_name = {row.name: row for row in rows}
    result, dense = rows[-1], by_name["dense"]
    table = "\n".join(_row(row) for row in rows)
    layers = "\n".join(
        f"| {index} | {kept.kv_heads} of {whole.kv_heads} | {kept.ffn_width} of {whole.ffn_width} |"
        for index, (kept, whole) in enumerate(zip(choice.architecture.layers, dense.architecture.layers, strict=True))
    )
    groups = _groups(rows) if result.groups else ""
    perplexity = result.perplexity
    training = "and recovered by a short training" if result.name == "recovered" else "without any training"
    # The title says it where decoder parameters alone were limited.
    limited = any(use.name != "decoder_parameters" for use in budget)
    used = f" Of its budget it uses {budget_text(budget)}." if limited else ""
    loading = "\n".join(form.loading_lines("path/to/this/folder"))
    return f"""---
library_name: {form.library}
tags: [pruned, secateur]
---

```python
{form.imports}

{loading}
```

# {model_name}, pruned to {1 - result.parameter_reduction:.1%} of its decoder parameters

Made by Secateur from `{model_name}`, stored in {dtype}, {training}.{used} {form.needs}

| model | decoder parameters | all parameters | reduction | perplexity (interval) | KL to dense |
|---|---|---|---|---|---|
{table}

Perplexity is {perplexity.protocol} on {perplexity.num_windows} held-out windows; the interval is a bootstrap over
windows at {perplexity.confidence:.0%}. It says nothing about tasks: measure yours before you use the model.
{groups}
## Kept per layer

| layer | KV heads | {mlp_title(whole_experts=whole_experts)} |
|---|---|---|
{layers}

## Made with

```yaml
{config_yaml.rstrip()}
```
"""


def _groups(rows: tuple[ModelRow, ...]) -> str:
    """Say what the cut does to each group of text."""
    names = list(rows[0].groups)
    lines = "\n".join(
        f"| {row.name} | {' | '.join(f'{row.groups[name].value:.3f}' for name in names)} | {row.disparity:.4f} |"
        for row in rows
    )
    return f"""
## Groups

| model | {" | ".join(names)} | disparity |
|{"---|" * (len(names) + 2)}
{lines}

Perplexity on held-out windows of each group; disparity is the spread over groups of log(perplexity / dense perplexity).
"""


def _row(row: ModelRow) -> str:
    cost, perplexity = row.cost, row.perplexity
    interval = f"{perplexity.low:.3f} to {perplexity.high:.3f}"
    return (
        f"| {row.name} | {cost.decoder_parameters:,} | {cost.total_parameters:,} | {row.parameter_reduction:.1%} "
        f"| {perplexity.value:.3f} ({interval}) | {row.kl:.4f} |"
    )
