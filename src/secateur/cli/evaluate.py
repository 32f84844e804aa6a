"""`secateur evaluate`: any Hugging Face causal model, or two beside each other: text, tasks, speed."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.options import DataOption, DeviceOption, ModelArgument
from secateur.cli.terminal import quiet_libraries, user_errors


def evaluate_command(
    model: ModelArgument,
    against: Annotated[
        str | None,
        typer.Option(help="Another model on the same text, such as the dense one: KL, paired tests, ratios."),
    ] = None,
    data: DataOption = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help="ppl-N or sliding-N-S (N tokens per window, S from one to the next); ppl-128; several times."
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="Names by comma: of --task-data (all if not given), or lm-eval's own, from the hub."),
    ] = None,
    task_data: Annotated[
        Path | None, typer.Option(help="Folder with MMLU's dev/ and test/, or llm-foundry's *.jsonl; no network.")
    ] = None,
    shots: Annotated[
        int | None, typer.Option(help="Solved examples before each question; 5 for MMLU, else the task's own.", min=0)
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Questions per task, its first, at most.", min=1)] = None,
    speed: Annotated[bool, typer.Option("--speed", help="Time prefill and decoding; by turns with --against.")] = False,
    prompt_tokens: Annotated[int, typer.Option(help="Of --speed: tokens of prompt, at most.", min=1)] = 128,
    new_tokens: Annotated[int, typer.Option(help="Of --speed: tokens generated, at most.", min=2)] = 32,
    batch: Annotated[int, typer.Option(help="Of --speed: sequences at once.", min=1)] = 1,
    repeats: Annotated[int, typer.Option(help="Of --speed: timings of each model.", min=2)] = 15,
    json: Annotated[Path | None, typer.Option(help="File for everything as JSON.")] = None,
    device: DeviceOption = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    batch_tokens: Annotated[int, typer.Option(help="Tokens per forward pass.", min=1)] = 4096,
    seed: Annotated[int, typer.Option(help="Of the bootstrap, and of whatever else is drawn.")] = 0,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the modelling file that comes with a model.")
    ] = False,
) -> None:
    """Evaluate MODEL on text, on tasks, and for speed; each table states its protocol."""
    with user_errors():
        from rich.console import Console

        quiet_libraries()
        from secateur.evaluation.evaluate import SpeedRequest, TaskRequest, Wanted, evaluate_models
        from secateur.report.evaluation import evaluation_tables

        names = tuple(name.strip() for name in (tasks or "").split(",") if name.strip())
        wanted = Wanted(
            model=model,
            against=against,
            sources=tuple(data or ()),
            protocols=tuple(protocol or ()),
            tasks=TaskRequest(names, task_data, shots, limit, max(1, batch_tokens // 512)),
            speed=SpeedRequest(prompt_tokens, new_tokens, batch, repeats) if speed else None,
            device=device,
            dtype=dtype,
            batch_tokens=batch_tokens,
            seed=seed,
            trust_remote_code=trust_remote_code,
        )
        evaluation = evaluate_models(wanted)
        if json is not None:
            json.parent.mkdir(parents=True, exist_ok=True)
            json.write_text(evaluation.model_dump_json(indent=2) + "\n")
        console = Console()
        for table in evaluation_tables(evaluation):
            console.print(table)
        for note in evaluation.notes:
            console.print(note, highlight=False, soft_wrap=True)
        if json is not None:
            console.print(f"written: {json}", highlight=False, soft_wrap=True)
