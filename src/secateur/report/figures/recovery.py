"""The training after the cut: the loss of every step, and what the selection set said of it."""

from secateur.report.figures.picture import (
    GREEN,
    GREY,
    INK,
    NumberTable,
    Picture,
    Trace,
    axis,
    layout,
    marker,
    short,
)
from secateur.report.recorded import Recorded

# Of a long training, points that are drawn; each is the mean of as many steps.
MOST_POINTS = 400


def recovery(run: Recorded) -> Picture | None:
    """Draw the losses over the steps; None without a recovery."""
    record = run.recovery
    if record is None:
        return None
    training = record.training
    steps, losses = _thinned(training.losses)
    judged = training.judgements
    traces: list[Trace] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "of the step's batch",
            "x": steps,
            "y": losses,
            "line": {"color": GREY, "width": 1},
            "hovertemplate": "step %{x}: %{y:.4f}<extra></extra>",
        },
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "on the selection set",
            "x": [each.step for each in judged],
            "y": [each.loss for each in judged],
            "line": {"color": GREEN, "width": 2},
            "marker": marker(GREEN, "hexagon", 9),
            "hovertemplate": "after step %{x}: %{y:.4f}<extra></extra>",
        },
    ]
    if record.dense_loss is not None:
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "dense, on the selection set",
                "x": [0, max(training.planned, 1)],
                "y": [record.dense_loss, record.dense_loss],
                "line": {"color": INK, "width": 1.5, "dash": "dash"},
                "hoverinfo": "skip",
            }
        )
    first, best = judged[0].loss, training.best
    ended = f"It ended after {training.steps} of {training.planned} steps" if training.steps < training.planned else ""
    back = f"{len(training.rollbacks)} times it was rolled back" if training.rollbacks else ""
    again = f"{len(training.restarts)} times it began again at a quarter of the rate" if training.restarts else ""
    more = "; ".join(filter(None, (ended, back, again)))
    return Picture(
        name="recovery",
        title=f"Training brings the loss from {first:.3f} to {best.loss:.3f} nats on text that it was not trained on",
        about="Cross-entropy per token. The weights of the best judgement on the selection set were kept, after step "
        f"{best.step}. {more + '.' if more else ''}",
        traces=tuple(traces),
        layout=layout(axis("step"), axis("loss, nats per token", zeroline=False)),
        table=NumberTable(
            ("after step", "loss on the selection set"), tuple((str(each.step), short(each.loss)) for each in judged)
        ),
        wide=True,
    )


def _thinned(losses: tuple[float, ...]) -> tuple[list[float], list[float]]:
    size = max(1, -(-len(losses) // MOST_POINTS))
    pieces = [losses[start : start + size] for start in range(0, len(losses), size)]
    middles = [start + (len(piece) + 1) / 2 for start, piece in zip(range(0, len(losses), size), pieces, strict=True)]
    return middles, [sum(piece) / len(piece) for piece in pieces]
