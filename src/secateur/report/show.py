"""What a run has found so far, read from its database alone, finished or not."""

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table

from secateur.errors import RunFolderError
from secateur.plain_yaml import load_plain
from secateur.report.front import Front, front_table
from secateur.report.record import Report
from secateur.report.recorded import takes_time
from secateur.report.rows import mlp_title
from secateur.report.table import final_table, group_table, summary_lines
from secateur.runs.folder import RunFolder
from secateur.runs.records import read_record, reading
from secateur.runs.store import RunStore
from secateur.search.task import PROBES, RoundRecord
from secateur.space.candidate import Candidate, Measurement


def show_run(root: Path, top: int) -> list[RenderableType]:
    """Give the parts to print: stage times, predictor quality by round, best candidates, and the final table if any.

    Raises:
        RunFolderError: The folder holds no run.
    """
    folder = RunFolder(root)
    if not folder.database.is_file():
        raise RunFolderError(f"{root} holds no run (no run.db); give a folder that `secateur prune` made")
    with reading(folder.root), RunStore(folder.database) as store:
        parts: list[RenderableType] = [_stages(store), _rounds(store)]
        if any(record.removed for record in _round_records(store)):
            parts.append(_removed(store))
        space = load_plain(folder.config.read_text())["space"]
        parts.append(_candidates(store, top, mlp_title(whole_experts=space.get("experts") == "whole")))
    if folder.front.is_file():
        parts.append(front_table(read_record(folder.front, Front)))
    if folder.report.is_file():
        report = read_record(folder.report, Report)
        parts += [
            final_table(report),
            *([group_table(report)] if report.rows[0].groups else []),
            *summary_lines(report),
        ]
    else:
        parts.append(f"unfinished; go on with: secateur resume {root}")
    return parts


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)


def _stages(store: RunStore) -> Table:
    table = _table("finished stages")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    for row in store.stages():
        if takes_time(row.name) and not row.name.startswith(("round ", "verification ", "hidden ", "paper")):
            table.add_row(row.name, f"{row.seconds:.1f}")
    return table


def _rounds(store: RunStore) -> Table:
    table = _table("predictor, cross-validated at the budget (Kendall tau)")
    for title in (
        "round",
        "predictor",
        "pairs",
        "tau",
        "parameter count alone",
        "reconstruction error alone",
        "sensitivities alone",
        "in 90 % interval",
        "best KL after",
    ):
        table.add_column(title, justify="right")
    for record in _round_records(store):
        quality = record.quality
        sensed = quality.kendall_tau_sensitivity_only
        table.add_row(
            str(record.round),
            "none: neighbours" if record.fell_back else quality.predictor.replace("_", " "),
            str(quality.num_pairs),
            f"{quality.kendall_tau:.3f}",
            f"{quality.kendall_tau_reduction_only:.3f}",
            f"{quality.kendall_tau_error_only:.3f}",
            "-" if sensed is None else f"{sensed:.3f}",
            "-" if record.covered is None else f"{record.covered:.0%}",
            f"{record.best_kl:.4f}",
        )
    return table


def _removed(store: RunStore) -> Table:
    """What left the search space, and why."""
    table = _table("left the search space: harm at a fixed budget, log KL, as predicted")
    for title in ("round", "choice", "together with", "mean effect", "at least", "architectures"):
        table.add_column(title)
    for each in (removed for record in _round_records(store) for removed in record.removed):
        partner = each.partner
        table.add_row(
            str(each.round),
            f"layer {each.layer} {each.kind.value} at {each.width}",
            f"layer {partner.layer} {partner.kind.value} at {partner.width}" if partner else "",
            f"{each.mean_effect:.3f}",
            f"{each.low:.3f}",
            str(each.num_samples),
        )
    return table


def _round_records(store: RunStore) -> list[RoundRecord]:
    return [row.read(RoundRecord) for row in store.stages() if row.name.startswith("round ")]


def _candidates(store: RunStore, top: int, counted: str) -> Table:
    proposals = [Candidate.model_validate_json(record) for record in store.candidates()]
    origins = {proposal.architecture.key: proposal for proposal in proposals}
    measured = [Measurement.model_validate_json(record) for record in store.all_measurements()]
    # What was measured only to learn from (single modules, the paper's pairs, slices before reconstruction) loses less
    # or more than what the choice is among.
    comparable = [
        m for m in measured if m.protocol == measured[-1].protocol and origins[m.architecture.key].origin not in PROBES
    ]
    good = sorted((m for m in comparable if m.kl is not None), key=lambda m: (m.kl, m.architecture.key))
    failed = len(comparable) - len(good)
    table = _table(
        f"best of {len(good)} measured candidates ({len(proposals)} proposed, {failed} failed), selection set"
    )
    for title in ("KL to dense", "loss", "reduction", "round", "origin", f"KV heads / {counted} per layer"):
        table.add_column(title)
    for measurement in good[:top]:
        proposal = origins[measurement.architecture.key]
        widths = " ".join(f"{layer.kv_heads}/{layer.ffn_width}" for layer in measurement.architecture.layers)
        table.add_row(
            f"{measurement.kl:.4f}",
            f"{measurement.loss:.4f}",
            f"{proposal.parameter_reduction:.1%}",
            str(proposal.round),
            proposal.origin,
            widths,
        )
    return table
