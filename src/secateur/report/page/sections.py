"""The parts of the page, in order: what each shows, and what it says where a run has nothing for it."""

from collections.abc import Sequence

from secateur.report.figures.cuts import cuts
from secateur.report.figures.picture import TITLES, Architectures, NumberTable, Picture, percent, short
from secateur.report.figures.predictions import predicted_against_measured, ranks
from secateur.report.figures.progress import progress
from secateur.report.figures.quality import divergence, groups, perplexity
from secateur.report.figures.reasons import contributions, importance
from secateur.report.figures.recovery import recovery
from secateur.report.figures.speed import speed
from secateur.report.figures.trade_off import front_picture, trade_off
from secateur.report.page.elements import card, figure, grid, nothing, section, table, words
from secateur.report.page.reproduce import reproduce_html
from secateur.report.page.samples import samples_html
from secateur.report.recorded import Recorded
from secateur.report.table import drop_amount, summary_lines

NAMES = {
    "trade-off": "Trade-off",
    "cuts": "Cuts",
    "predictor": "Predictor",
    "why": "Why",
    "search": "Search",
    "quality": "Quality",
    "speed": "Speed",
    "samples": "Samples",
    "reproduce": "Reproduce",
}


class Sections:
    """The parts of one page, and the figures that they hold."""

    def __init__(self, run: Recorded, command: str, config_yaml: str) -> None:
        self.run, self.command, self.config_yaml = run, command, config_yaml
        self.known = Architectures()
        self.pictures: list[Picture] = []

    def html(self) -> str:
        """Write all parts; fills `pictures` and `known`."""
        return "\n".join(
            (
                self._trade_off(),
                self._cuts(),
                self._predictor(),
                self._why(),
                self._search(),
                self._quality(),
                self._speed(),
                self._samples(),
                self._reproduce(),
            )
        )

    def _drawn(self, pictures: Sequence[Picture | None], otherwise: str, more: Sequence[str] = ()) -> str:
        there = [picture for picture in pictures if picture is not None]
        self.pictures += there
        if not there and not more:
            return nothing(otherwise)
        missing = [] if there else [nothing(otherwise)]
        return "".join(missing) + grid([*(figure(picture) for picture in there), *more])

    def _trade_off(self) -> str:
        run = self.run
        pictures = [trade_off(run, self.known), front_picture(run, self.known)]
        more = [card("In words", words(summary_lines(run.report)), wide=True)] if run.report else []
        intro = "What was measured on the way, where the result stands in it, and what else could be had."
        return section(
            "trade-off", "The trade-off", intro, self._drawn(pictures, "Nothing has been measured yet.", more)
        )

    def _cuts(self) -> str:
        state = "the result" if self.run.choice else "the best architecture so far"
        intro = f"How much of every layer is left in {state}, block by block."
        none = "Nothing has been measured yet, or this version of the run folder does not say what the dense model is."
        return section("cuts", "What was cut where", intro, self._drawn([cuts(self.run)], none))

    def _predictor(self) -> str:
        run = self.run
        pictures = [predicted_against_measured(run, self.known), ranks(run)]
        intro = "Whether the accuracy predictor can be believed: it is judged on architectures that it had not seen."
        return section(
            "predictor", "What the predictor knows", intro, self._drawn(pictures, self._no_predictor(), self._paper())
        )

    def _no_predictor(self) -> str:
        if self.run.method == "secateur":
            return "The predictor has not been fitted yet, or there were too few candidates to need one."
        return f"The method {self.run.method} has no predictor that can be judged here."

    def _paper(self) -> list[str]:
        paper = self.run.report.paper if self.run.report else None
        if paper is None:
            return []
        q = paper.quality
        rows = (
            ("pairs fitted / held out", f"{q.num_fitted} / {q.num_validation}"),
            ("MSE, RMSE, MAE (z-scores)", f"{q.mse:.3f}, {q.rmse:.3f}, {q.mae:.3f}"),
            ("R2, held out", f"{q.r2:.3f}"),
            ("R2 of a line in the parameter count", f"{q.r2_reduction_only:.3f}"),
            ("Kendall's tau among the last measured", f"{paper.kendall_tau_finalists:.2f}"),
        )
        return [
            card(
                "The paper's predictor",
                table(NumberTable(("figure", "value"), rows), "as the paper reports it", whole=True),
                wide=True,
            )
        ]

    def _why(self) -> str:
        run = self.run
        none = self._no_predictor() if run.rounds == () else "The chosen architecture is explained once it is known."
        intro = "What the predictor has learned: which blocks matter, and what the choice does about them."
        return section("why", "Why", intro, self._drawn([importance(run), contributions(run)], none))

    def _search(self) -> str:
        run = self.run
        intro = "Every measurement, what proposed it, and how the best came down."
        content = self._drawn(
            [progress(run, self.known)], "Nothing has been measured yet.", [*self._hidden(), *self._drop()]
        )
        return section("search", "Search progress", intro, content)

    def _hidden(self) -> list[str]:
        hidden = self.run.report.hidden if self.run.report else None
        if hidden is None:
            return []
        rows = tuple((str(size), short(kl)) for size, kl in sorted(hidden.kl.items(), reverse=True))
        numbers = table(
            NumberTable(("hidden size", "least KL, nats per token"), rows),
            "tried at the budget",
            str(hidden.chosen),
            whole=True,
        )
        return [card(f"Hidden size {hidden.chosen} of {hidden.dense} was taken", numbers)]

    def _drop(self) -> list[str]:
        drop = self.run.report.drop if self.run.report else None
        if drop is None:
            return []
        rows = tuple(
            (
                str(number),
                percent(each.prospect.share),
                drop_amount(drop, each.drop),
                drop_amount(drop, each.bound),
                "yes" if each.held else "no",
            )
            for number, each in enumerate(drop.verifications, start=1)
        )
        header = ("verification", f"{drop.minimized.replace('_', ' ')} left", "drop", "bound", "held")
        verdict = "held" if drop.held else "did not hold"
        title = (
            f"The limit of {drop_amount(drop, drop.limit)} {verdict} on the evaluation set: "
            f"{drop_amount(drop, drop.evaluation)}"
        )
        return [card(title, table(NumberTable(header, rows), "models made and measured", whole=True))]

    def _quality(self) -> str:
        run = self.run
        pictures = [perplexity(run), divergence(run), groups(run), recovery(run)]
        intro = "Before and after, all on the same evaluation windows, which nothing before the evaluation reads."
        content = self._drawn(pictures, "The run has not come to its evaluation yet.", self._pairs())
        return section("quality", "Quality", intro, content)

    def _pairs(self) -> list[str]:
        pairs = self.run.report.comparisons if self.run.report else ()
        if not pairs:
            return []
        rows = tuple(
            (
                f"{TITLES.get(each.first, each.first)} against {TITLES.get(each.second, each.second)}",
                f"{each.difference:+.4f} {each.unit}",
                f"{each.low:+.4f} to {each.high:+.4f}",
                f"{each.p_value:.2g}",
                str(each.num_windows),
            )
            for each in pairs
        )
        header = ("models", "difference in loss", f"{100 * pairs[0].confidence:.0f} % interval", "p", "windows")
        caption = f"loss of the first less that of the second on the same windows; test: {pairs[0].test}"
        return [card("Model against model", table(NumberTable(header, rows), caption, whole=True), wide=True)]

    def _speed(self) -> str:
        run = self.run
        rows = tuple(
            (
                TITLES.get(row.name, row.name),
                f"{row.cost.total_parameters:,}",
                f"{row.cost.flops_per_token:,}",
                f"{row.cost.kv_cache_bytes_per_token:,}",
            )
            for row in run.rows
        )
        header = ("model", "parameters", "FLOPs per token in the blocks", "KV cache, bytes per token")
        own = TITLES["secateur" if run.result is None else run.result.name]
        counted = [
            card(
                "What is counted",
                table(NumberTable(header, rows), "exact, from the shapes", own, whole=True),
                wide=True,
            )
        ]
        none = "This run has timed no models" + ("." if run.rows else " yet.")
        intro = "How fast the result answers and what it needs, beside the dense model."
        return section("speed", "Speed and memory", intro, self._drawn([speed(run)], none, counted if rows else []))

    def _samples(self) -> str:
        intro = (
            "The same beginnings of evaluation windows, continued greedily: the most likely token, again and again. "
            "Marked is what the dense model would not have said. A few lines prove nothing; the intervals above do."
        )
        return section("samples", "Samples", intro, samples_html(self.run.samples))

    def _reproduce(self) -> str:
        intro = "Everything that this run was made from."
        content = reproduce_html(self.run, self.command, self.config_yaml)
        return section("reproduce", "Do it again", intro, content)
