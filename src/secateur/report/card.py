"""The model card: how to load the result, first; then what it is and how it was made."""

from secateur.export.checkpoint import ExportedForm
from secateur.report.record import Choice, ModelRow


def model_card(
    model_name: str, form: ExportedForm, rows: tuple[ModelRow, ...], choice: Choice, dtype: str, config_yaml: str
) -> str:
    """Write the card in Markdown."""
    shown = model_name.replace("\\", "/").rstrip("/").split("/")[-1]
    by_name = {row.name: row for row in rows}
    secateur, dense = by_name["secateur"], by_name["dense"]
    needs = (
        "The layers differ in size, so the folder ships `modeling_secateur.py`, a short file that needs transformers only; "
        "read it before you trust it."
        if form.remote_code
        else "The layers are alike, so stock transformers classes hold it."
    )
    table = "\n".join(
        f"| {row.name} | {row.cost.decoder_parameters:,} | {row.cost.total_parameters:,} | {row.parameter_reduction:.1%} "
        f"| {row.perplexity.value:.3f} ({row.perplexity.low:.3f} to {row.perplexity.high:.3f}) | {row.kl:.4f} |"
        for row in rows
    )
    layers = "\n".join(
        f"| {index} | {kept.kv_heads} of {whole.kv_heads} | {kept.ffn_width} of {whole.ffn_width} |"
        for index, (kept, whole) in enumerate(
            zip(choice.architecture.layers, dense.architecture.layers, strict=True)
        )
    )
    perplexity = secateur.perplexity
    return f"""---
library_name: transformers
tags: [pruned, secateur]
---

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

{form.loading_line.replace('"exported"', '"path/to/this/folder"')}
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```

# {shown}, pruned to {secateur.cost.decoder_parameters / dense.cost.decoder_parameters:.1%} of its decoder parameters

Made by Secateur from `{shown}`, stored in {dtype}, without any training. {needs}

| model | decoder parameters | all parameters | reduction | perplexity (interval) | KL to dense |
|---|---|---|---|---|---|
{table}

Perplexity is {perplexity.protocol} on {perplexity.num_windows} held-out windows; the interval is a bootstrap over windows at
{perplexity.confidence:.0%}. It says nothing about tasks: measure yours before you use the model.

## Kept per layer

| layer | KV heads | FFN width |
|---|---|---|
{layers}

## Made with

```yaml
{config_yaml.rstrip()}
```
"""
