"""The final table and the chosen architecture, for a terminal."""

import math

from rich.box import SIMPLE_HEAD
from rich.table import Table

from secateur.report.evaluation import comparison_line, speed_line
from secateur.report.record import DropRecord, Report, Uniformity
from secateur.report.rows import budget_text, mlp_title
from secateur.space.cost import say

TITLES = {
    "dense": "dense",
    "uniform": "uniform",
    "uniform-wide": "uniform, wide",
    "secateur": "Secateur",
    "recovered": "recovered",
}
METRICS = {"perplexity": "perplexity", "kl": "KL", "accuracy": "multiple-choice accuracy"}


def final_table(report: Report) -> Table:
    """One row per model, all on the same evaluation windows."""
    protocol = report.rows[0].perplexity
    uniform = "uniform: LLM-Pruner, one ratio for all layers, Taylor order, no reconstruction\n"
    if not any(row.name.startswith("uniform") for row in report.rows):
        uniform = ""
    table = Table(
        title=f"{report.model} {budget_title(report)}",
        caption=f"{uniform}reduction: of decoder parameters; KL to dense in nats per token\n"
        f"{protocol.num_windows} evaluation windows, {protocol.protocol}; seconds: spent to get the row",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
    )
    table.add_column("model", no_wrap=True)
    for title in ("parameters", "reduction", "perplexity", f"± {protocol.confidence:.0%}", "KL", "seconds"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in report.rows:
        table.add_row(
            _title(report, row.name),
            f"{row.cost.total_parameters:,}",
            f"{row.parameter_reduction:.1%}",
            f"{row.perplexity.value:.2f}",
            f"{(row.perplexity.high - row.perplexity.low) / 2:.2f}",
            f"{row.kl:.3f}",
            f"{row.seconds:.0f}",
            style="bold" if row is report.result else "",
        )
    return table


def budget_title(report: Report) -> str:
    """Say what was asked for: `at 0.8 of its decoder parameters`, `within 1,100,000 parameters`, or both."""
    if report.drop:
        return drop_title(report.drop)
    kept = [f"at {report.keep:g} of its decoder parameters"] if report.keep is not None else []
    within = " and ".join(say(use.name, use.ceiling) for use in report.budget if use.name != "decoder_parameters")
    return ", ".join([*kept, f"within {within}"] if within else kept)


def drop_title(drop: DropRecord) -> str:
    return f"as small as {drop_amount(drop, drop.limit)} of drop in {METRICS[drop.metric]} allows"


def drop_amount(drop: DropRecord, amount: float) -> str:
    """Write a drop: `4.1 %`, `2.0 points`, `0.050 nats`."""
    if drop.metric == "kl":
        return f"{amount:.4f} nats"
    return f"{100 * amount:.3g} {'%' if drop.metric == 'perplexity' else 'points'}"


def drop_lines(drop: DropRecord) -> list[str]:
    """Say what was lost on the evaluation text, what is left of the model, and how sure that was before."""
    lost = {
        "perplexity": f"perplexity rises by {drop_amount(drop, drop.evaluation)}",
        "kl": f"KL to the dense model is {drop_amount(drop, drop.evaluation)}",
        "accuracy": f"accuracy drops by {drop_amount(drop, drop.evaluation)}",
    }[drop.metric]
    on = "questions" if drop.metric == "accuracy" else "windows"
    left = drop.minimized.replace("_", " ")
    count = len(drop.verifications)
    return [
        f"{lost} (limit {drop_amount(drop, drop.limit)}) on the evaluation {on}; {drop.share:.3f} of the {left} kept; "
        f"{count} verification{'' if count == 1 else 's'}",
        f"on the selection {on} {drop_amount(drop, drop.selection)}, at most {drop_amount(drop, drop.selection_bound)} "
        "on others like them",
    ]


def group_table(report: Report) -> Table:
    """One row per model of a run with groups: what it does to each."""
    table = Table(
        title="groups",
        caption="perplexity on the evaluation windows of each group; mean: geometric, over groups\n"
        "disparity: max - min over groups of log(perplexity / dense perplexity), nats per token",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
    )
    table.add_column("model", no_wrap=True)
    for title in (*report.rows[0].groups, "mean", "disparity"):
        table.add_column(title, justify="right")
    for row in report.rows:
        values = [each.value for each in row.groups.values()]
        mean = math.exp(sum(map(math.log, values)) / len(values))
        cells = (*(f"{value:.2f}" for value in values), f"{mean:.2f}", f"{row.disparity:.3f}")
        table.add_row(_title(report, row.name), *cells, style="bold" if row is report.result else "")
    return table


def architecture_table(report: Report) -> Table:
    """What is kept of every layer."""
    dense = report.row("dense").architecture
    table = Table(title="kept per layer", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("layer", justify="right")
    table.add_column("KV heads", justify="right")
    table.add_column(mlp_title(whole_experts=report.whole_experts), justify="right")
    table.add_column("")
    for index, (kept, whole) in enumerate(zip(report.choice.architecture.layers, dense.layers, strict=True)):
        table.add_row(
            str(index),
            f"{kept.kv_heads} of {whole.kv_heads}",
            f"{kept.ffn_width} of {whole.ffn_width}",
            _bar(kept.kv_heads / whole.kv_heads) + " " + _bar(kept.ffn_width / whole.ffn_width),
        )
    return table


def summary_lines(report: Report) -> list[str]:
    """Say in words what the table does not: gains, predictor quality, where the result is and how it loads."""
    secateur = report.row("secateur")
    lines = drop_lines(report.drop) if report.drop else []
    lines += recovery_lines(report)
    for name, left in report.excess_log_perplexity_left.items():
        ratio = secateur.perplexity.value / report.row(name).perplexity.value
        share = "it is no worse than dense" if left is None else f"{left:.0%} of its excess log-perplexity is left"
        before = "before the recovery, " if report.recovery else ""
        lines.append(f"{before}perplexity is {ratio:.2f} of {TITLES[name]}; {share}")
    beside = {each.second: each for each in report.comparisons}
    if "dense" in beside:
        lines.append(comparison_line(beside["dense"]))
    lines += [speed_line(each) for each in report.speed.ratios] if report.speed else []
    if report.drop is None and any(use.name != "decoder_parameters" for use in report.budget):
        lines.append(f"of the budget it uses {budget_text(report.budget)}")
    if report.latency:
        timed = report.latency
        lines.append(
            f"latency: blocks timed one by one and added up, {timed.prompt_tokens} tokens of prompt, batch "
            f"{timed.batch}, {timed.dtype}, {timed.device}"
        )
    if report.traded:
        traded = report.traded
        lines.append(
            f"disparity {traded.best_quality_disparity:.3f} -> {traded.disparity:.3f} at "
            f"{traded.mean_perplexity_ratio - 1:.1%} worse mean perplexity than the best-quality point (both on the "
            "groups' selection windows)"
        )
    if report.rounds:
        quality = report.rounds[-1].quality
        where = "over all sizes searched" if report.drop else "at the budget"
        lines.append(
            f"predictor ({quality.predictor.replace('_', ' ')}): Kendall tau {quality.kendall_tau:.2f} {where}, "
            f"cross-validated on {quality.num_pairs} pairs (parameter count alone "
            f"{quality.kendall_tau_reduction_only:.2f}, reconstruction error alone "
            f"{quality.kendall_tau_error_only:.2f})"
        )
        fallen = [str(record.round) for record in report.rounds if record.fell_back]
        if fallen:
            lines.append(
                f"in rounds {', '.join(fallen)} the predictor ranked no better than noise could: the search fell back "
                "to the measured ranking, and to neighbours of the best"
            )
        removed = sum(len(record.removed) for record in report.rounds)
        if removed:
            lines.append(f"{removed} choices left the search space; `secateur show` says which and why")
    if report.uniformity:
        lines.append(uniformity_line(report.uniformity))
    if report.paper:
        paper = report.paper.quality
        lines.append(
            f"the paper's predictor, {paper.num_fitted} pairs fitted, {paper.num_validation} held out: "
            f"MSE {paper.mse:.3f}, RMSE {paper.rmse:.3f}, MAE {paper.mae:.3f}, R2 {paper.r2:.3f} (parameter count "
            f"alone {paper.r2_reduction_only:.3f}); Kendall tau among the last measured, at the budget, "
            f"{report.paper.kendall_tau_finalists:.2f}"
        )
    export = report.export
    lines.append(
        f"{report.num_measurements} architectures measured; the export was loaded in a fresh process: "
        f"{export.class_name}, {export.num_parameters:,} parameters, {export.logits}"
    )
    return lines


def recovery_lines(report: Report) -> list[str]:
    """Say what the training gave back."""
    if report.recovery is None:
        return []
    training, share = report.recovery.training, report.recovered_share
    before, after = (report.row(name).perplexity.value for name in ("secateur", "recovered"))
    gave = f": {share:.0%} of the excess log-perplexity that the cut left" if share is not None else ""
    kept = "" if training.best_step else "; no step made it better on the selection set, so it stays as it was"
    return [
        f"recovery ({report.recovery.recipe.method}, {training.tokens:,} tokens, {training.seconds:.0f} s): perplexity "
        f"{before:.2f} -> {after:.2f}{gave}{kept}"
    ]


def uniformity_line(uniformity: Uniformity) -> str:
    """Say what layers alike cost at the budget."""
    alike, differing = (
        f"KL {winner.kl:.4f} (by slices {_or_failed(winner.sliced)}, predicted {winner.predicted:.4f}; best of "
        f"{winner.num_measurements})"
        for winner in (uniformity.uniform, uniformity.per_layer)
    )
    return (
        f"layers alike, which every stock class holds: {alike}; layers that differ: {differing}; the first cost "
        f"{uniformity.cost:+.4f} nats per token"
    )


def _or_failed(kl: float | None) -> str:
    return "failed" if kl is None else f"{kl:.4f}"


def _title(report: Report, name: str) -> str:
    """Name a row; the result of another method than the default by that method."""
    return report.method if name == "secateur" and report.method != "secateur" else TITLES[name]


def _bar(share: float, width: int = 8) -> str:
    filled = round(share * width)
    return "█" * filled + "·" * (width - filled)
