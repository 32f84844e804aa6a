"""`secateur evaluate`: any Hugging Face causal model under a named protocol."""

from typing import Annotated

import typer

from secateur.cli.options import DataOption, DeviceOption, ModelArgument
from secateur.cli.terminal import quiet_libraries, user_errors


def evaluate_command(
    model: ModelArgument,
    data: DataOption = None,
    sequence_length: Annotated[int, typer.Option(help="Tokens per window; 128 is the protocol ppl-128.", min=2)] = 128,
    device: DeviceOption = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    batch_tokens: Annotated[int, typer.Option(help="Tokens per forward pass.", min=1)] = 4096,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    trust_remote_code: Annotated[
        bool, typer.Option(help="Run the modelling file that comes with the model, as per-layer exports need.")
    ] = False,
) -> None:
    """Print the perplexity of any Hugging Face causal model, with a bootstrap interval."""
    with user_errors():
        quiet_libraries()
        from secateur.evaluation.perplexity import evaluate_perplexity

        result = evaluate_perplexity(
            model, data or [], sequence_length, device, dtype, batch_tokens, seed, trust_remote_code
        )
        typer.echo(
            f"{result.protocol} of {model}: {result.value:.4f} "
            f"({result.confidence:.0%} interval {result.low:.4f} to {result.high:.4f})"
        )
        typer.echo(
            f"protocol: rows joined by a blank line, tokenised once, {result.num_windows:,} windows of "
            f"{sequence_length} tokens without overlap, {result.num_tokens:,} predictions; bootstrap over windows"
        )
