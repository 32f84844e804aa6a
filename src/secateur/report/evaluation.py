"""What `secateur evaluate` prints: a table per kind, with its protocol under it."""

from collections.abc import Iterator
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from secateur.evaluation.evaluate import Evaluation
from secateur.evaluation.paired import PairedComparison
from secateur.evaluation.protocols import find_protocol
from secateur.evaluation.speed import SpeedComparison, SpeedRatio, Spread
from secateur.evaluation.tasks import TaskScore
from secateur.evaluation.text import Estimate, TextResult


def evaluation_tables(evaluation: Evaluation) -> Iterator[Table]:
    """Give the tables of what was evaluated; models by the last part of their names where that tells them apart."""
    evaluation = _with_short_names(evaluation)
    if evaluation.texts:
        yield text_table(evaluation.texts)
    if evaluation.comparisons:
        yield comparison_table(evaluation.comparisons)
    if evaluation.tasks:
        yield task_table(evaluation.tasks)
    if evaluation.speed:
        yield speed_table(evaluation.speed)


def _table(title: str, caption: str, names: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    table = Table(
        title=title,
        caption=caption,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
    )
    for name in names:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def text_table(results: tuple[TextResult, ...]) -> Table:
    """One row per protocol and model."""
    first = results[0].perplexity
    statements = dict.fromkeys(find_protocol(each.perplexity.protocol).statement for each in results)
    table = _table(
        "text",
        "\n".join(statements) + f"\n{first.confidence:.0%} intervals: bootstrap over windows; KL to the other model in "
        "nats per token\nbits per byte: of the UTF-8 text that is predicted, whatever the tokenizer",
        ("model", "protocol"),
        ("windows", "perplexity", f"{first.confidence:.0%}", "bits per byte", "KL"),
    )
    for each in results:
        perplexity = each.perplexity
        table.add_row(
            each.model,
            perplexity.protocol,
            f"{perplexity.num_windows:,}",
            f"{perplexity.value:.4g}",
            f"{perplexity.low:.4g} to {perplexity.high:.4g}",
            _estimate(each.bits_per_byte),
            _estimate(each.kl),
        )
    return table


def comparison_table(comparisons: tuple[PairedComparison, ...]) -> Table:
    """One row per protocol: what the model loses beyond the other."""
    first = comparisons[0]
    table = _table(
        f"{first.first} against {first.second}",
        "difference: mean loss of the first minus that of the second, below 0 where the first is better\n"
        f"paired: bootstrap over windows; p: {first.test}, two-sided",
        ("protocol", "unit"),
        ("windows", "difference", f"{first.confidence:.0%}", "p"),
    )
    for each in comparisons:
        table.add_row(
            each.protocol,
            each.unit,
            f"{each.num_windows:,}",
            f"{each.difference:+.4f}",
            f"{each.low:+.4f} to {each.high:+.4f}",
            p_text(each.p_value),
        )
    return table


def task_table(scores: tuple[TaskScore, ...]) -> Table:
    """One row per task, metric and model, as lm-evaluation-harness prints them."""
    table = _table(
        "tasks",
        "lm-evaluation-harness, by likelihood of the answers; stderr over questions",
        ("task", "metric", "model"),
        ("shots", "questions", "value", "stderr"),
    )
    for each in sorted(scores, key=lambda score: (score.task, score.metric)):
        error = "" if each.stderr is None else f"± {each.stderr:.4g}"
        table.add_row(
            each.task, each.metric, each.model, str(each.shots), f"{each.num_questions:,}", f"{each.value:.4g}", error
        )
    return table


def speed_table(speed: SpeedComparison) -> Table:
    """One row per model and one per ratio."""
    table = _table(
        "speed",
        f"medians of {speed.repeats}, quartiles in brackets; {speed.prompt_tokens} tokens of prompt, "
        f"{speed.new_tokens} new, batch {speed.batch}, {speed.dtype}, {speed.device}\nmodels by turns in random order, "
        "after warming up; ratios by repeat, with a 95% bootstrap interval"
        + (f"\nmemory: {speed.memory_measure}" if speed.memory_measure else ""),
        ("model",),
        ("prefill, ms", "decode, ms/token", "tokens/s", "memory", "files"),
    )
    for each in speed.models:
        table.add_row(
            each.name,
            spread_text(each.prefill_ms),
            spread_text(each.decode_ms_per_token),
            spread_text(each.throughput_tokens_per_s),
            "" if each.peak_memory_bytes is None else bytes_text(each.peak_memory_bytes),
            bytes_text(each.weights_bytes),
        )
    for ratio in speed.ratios:
        model, other = (
            next(each for each in speed.models if each.name == name) for name in (ratio.name, ratio.against)
        )
        memory = ""
        if model.peak_memory_bytes and other.peak_memory_bytes:
            memory = f"{model.peak_memory_bytes / other.peak_memory_bytes:.3f}"
        table.add_row(
            "ratio",
            spread_text(ratio.prefill),
            spread_text(ratio.decode),
            spread_text(ratio.throughput),
            memory,
            f"{model.weights_bytes / other.weights_bytes:.3f}",
            style="bold",
        )
    return table


def speed_line(ratio: SpeedRatio) -> str:
    """Say in a line how fast a model is beside another."""
    return (
        f"speed beside {ratio.against}: prefill {spread_text(ratio.prefill)} of the time, decoding "
        f"{spread_text(ratio.decode)}, {spread_text(ratio.throughput)} times the tokens per second"
    )


def comparison_line(comparison: PairedComparison) -> str:
    """Say in a line what a model loses beyond another."""
    return (
        f"beside {comparison.second}, window by window: {comparison.difference:+.4f} {comparison.unit} "
        f"({comparison.low:+.4f} to {comparison.high:+.4f}; {comparison.test}, p {p_text(comparison.p_value)})"
    )


def p_text(value: float) -> str:
    """Write a p-value; those of random flips are never less than 1 in 10,000."""
    return f"{value:.2g}" if value >= 0.001 else "< 0.001"


def spread_text(spread: Spread) -> str:
    """Write a median with its bounds, to three digits."""
    return f"{spread.median:.3g} ({spread.low:.3g}-{spread.high:.3g})"


def bytes_text(count: int) -> str:
    """Write a number of bytes: `2.87 MB`, `14.9 GB`."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return f"{estimate.value:.4f} ± {(estimate.high - estimate.low) / 2:.4f}"


def _with_short_names(evaluation: Evaluation) -> Evaluation:
    if evaluation.against is None:
        return evaluation
    names = (evaluation.model, evaluation.against)
    short = {name: Path(name).name for name in names}
    if len(set(short.values())) < 2:
        return evaluation
    speed = evaluation.speed
    if speed is not None:
        ratios = [
            each.model_copy(update={"name": short[each.name], "against": short[each.against]}) for each in speed.ratios
        ]
        models = [each.model_copy(update={"name": short[each.name]}) for each in speed.models]
        speed = speed.model_copy(update={"models": tuple(models), "ratios": tuple(ratios)})
    renamed = {"first": short[names[0]], "second": short[names[1]]}
    return evaluation.model_copy(
        update={
            "texts": tuple(each.model_copy(update={"model": short[each.model]}) for each in evaluation.texts),
            "tasks": tuple(each.model_copy(update={"model": short[each.model]}) for each in evaluation.tasks),
            "comparisons": tuple(each.model_copy(update=renamed) for each in evaluation.comparisons),
            "speed": speed,
        }
    )
