"""Soup: finished recoveries of the same pruned model become one, which is written and held to what was measured."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from secateur.config import DataConfig, EvaluationConfig
from secateur.data import Role, Texts, TokenSet, assign_documents, build_token_sets
from secateur.errors import ConfigError, ExportError, ModelError, RunFolderError, suggestion
from secateur.evaluation.paired import compare_paired
from secateur.evaluation.perplexity import perplexity, window_losses
from secateur.evaluation.text import NamedModel
from secateur.export.form import ExportedForm
from secateur.export.modeling_file import MODULE
from secateur.export.soup_folder import DTYPES, runs_own_code, write_soup
from secateur.export.verify import MAX_LOGIT_DIFFERENCE, FreshLoad, load_in_fresh_process
from secateur.model.loading import load_causal_model, read_config
from secateur.recovery.alike import refuse_differing
from secateur.recovery.ingredients import Adapted, Ingredient, StoredModel, is_adapter, open_ingredient
from secateur.recovery.objective import mean_loss
from secateur.recovery.soup import Tasting, greedy, kept
from secateur.recovery.training import Advance
from secateur.report.soup import IngredientRecord, Judged, SoupReport, soup_card, verdict
from secateur.runs.folder import remove, written_whole
from secateur.runs.progress import LOSS, Listener, silent, stage_clock
from secateur.schema import derive_seed

METHODS = ("greedy", "uniform")
DATA, EVALUATION = DataConfig(), EvaluationConfig()
PROBE_WINDOWS, PROBE_LENGTH = 2, 32
# Nats per token that no model loses whose weights mean anything.
BROKEN = 100.0


@dataclass(frozen=True)
class SoupRequest:
    """What a soup is to be made of.

    Attributes:
        sources: Texts, of which a share of the documents chooses and another is reported on.
        base: What adapters are merged into.
        texts: Documents of sources that were handed over in memory.
    """

    ingredients: tuple[Path, ...]
    out: Path
    method: str = "greedy"
    sources: tuple[str, ...] = ()
    base: Path | None = None
    device: str = "auto"
    trust_remote_code: bool = False
    texts: Texts = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True)
class _Tasted:
    judged: Judged
    losses: Float[Tensor, " windows"]


class _Kitchen:
    """Opened ingredients, and the texts that say what a mean of some of them is worth."""

    def __init__(self, wanted: SoupRequest) -> None:
        base = self.base = StoredModel(wanted.base) if wanted.base else None
        self.wanted = wanted
        self.ingredients: tuple[Ingredient, ...] = tuple(open_ingredient(each, base) for each in wanted.ingredients)
        self.layout = base if base and is_adapter(wanted.ingredients[0]) else StoredModel(wanted.ingredients[0])
        models = [each.base.folder if isinstance(each, Adapted) else each.folder for each in self.ingredients]
        refuse_differing(self.ingredients, models, trust_remote_code=wanted.trust_remote_code)
        self.remote_code = runs_own_code(self.layout.folder, trusted=wanted.trust_remote_code)
        self.sets = self._token_sets() if wanted.sources else {}

    def _token_sets(self) -> dict[Role, TokenSet]:
        documents = assign_documents(list(self.wanted.sources), {}, DATA.text_field, self.wanted.texts)
        del documents[Role.CALIBRATION]  # that share recoveries were trained on
        config = read_config(str(self.layout.folder), None, self.wanted.trust_remote_code)
        length = min(DATA.sequence_length, getattr(config, "max_position_embeddings", None) or DATA.sequence_length)
        tokens = {Role.SELECTION: DATA.selection_tokens, Role.EVALUATION: DATA.evaluation_tokens}
        return build_token_sets(documents, self.load(self.layout.folder).tokenizer, length, tokens)

    def load(self, folder: Path, device: str | None = None, dtype: str = "auto") -> NamedModel:
        trusted = self.wanted.trust_remote_code
        name = str(folder)
        model, tokenizer, _ = load_causal_model(name, device or self.wanted.device, dtype, trust_remote_code=trusted)
        return NamedModel(name, model.requires_grad_(False), tokenizer)

    def with_mean(self, members: Sequence[int], scratch: Path) -> NamedModel:
        """Load the mean of some ingredients; one that is a whole model from its own folder."""
        chosen = [self.ingredients[place] for place in members]
        if len(chosen) == 1 and isinstance(chosen[0], StoredModel):
            return self.load(chosen[0].folder)
        remove(scratch)
        write_soup(chosen, self.layout, scratch)
        return replace(self.load(scratch), name=" + ".join(str(each.folder) for each in chosen))

    def selection_loss(self, model: NamedModel) -> float:
        tokens = self.sets[Role.SELECTION].tokens
        return mean_loss(model.model, tokens, max(1, EVALUATION.batch_tokens // tokens.shape[1]))

    def judged(self, model: NamedModel) -> _Tasted:
        """Ask both sets; only the selection loss chooses anything.

        Raises:
            ModelError: The loss is not finite, or as far off as broken weights make it.
        """
        loss, evaluation = self.selection_loss(model), self.sets[Role.EVALUATION]
        if not loss < BROKEN:
            raise ModelError(f"{model.name} loses {loss:.3g} nats per token: its weights are broken; leave it out")
        losses = window_losses(model.model, evaluation, EVALUATION.batch_tokens)
        length, bootstrap = evaluation.sequence_length, derive_seed(self.wanted.seed, "bootstrap")
        seen = perplexity(losses, f"packed-{length}", length, bootstrap, EVALUATION.confidence)
        return _Tasted(Judged(selection_loss=loss, perplexity=seen), losses)


def make_soup(wanted: SoupRequest, listener: Listener = silent) -> SoupReport:
    """Average models into a folder with their files, a card and soup.json; it appears whole or not at all.

    Raises:
        ConfigError, ModelError, DataError, RunFolderError: It cannot be made as asked; nothing was written.
        ExportError: The folder does not load elsewhere, or does not behave like the model that was measured.
    """
    refuse(wanted)
    steps = 2 * len(wanted.ingredients) + 1 if wanted.sources else 1
    with stage_clock("soup", listener, steps, LOSS) as clock:
        kitchen = _Kitchen(wanted)
        wanted.out.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(wanted.out) as folder:
            folder.mkdir()
            report = _cooked(kitchen, folder, clock.advance)
        clock.note = verdict(report) or f"the mean of {report.num_used} models"
    return report


def refuse(wanted: SoupRequest) -> None:
    """Refuse what can be seen to be wrong without reading any weights.

    Raises:
        ConfigError, RunFolderError: Says what.
    """
    if wanted.method not in METHODS:
        raise ConfigError(f"--method {wanted.method!r} is unknown; {suggestion(wanted.method, METHODS)}")
    if len(wanted.ingredients) < 2:
        raise ConfigError(f"a soup is made of two ingredients or more, got {len(wanted.ingredients)}")
    places = [each.resolve() for each in wanted.ingredients]
    twice = next((each for each in places if places.count(each) > 1), None)
    if twice is not None:
        raise ConfigError(f"ingredient {twice.name} was given twice; give each once")
    if wanted.method == "greedy" and not wanted.sources:
        raise ConfigError("a greedy soup is chosen on text: give some with --data, or take all with --method uniform")
    if wanted.base is not None and not any(map(is_adapter, wanted.ingredients)):
        raise ConfigError("--base is what adapters are merged into, and no ingredient is an adapter; leave it out")
    if wanted.out.exists() and (not wanted.out.is_dir() or any(wanted.out.iterdir())):
        raise RunFolderError(f"{wanted.out} is there already and is not empty; choose another --out folder")


def _cooked(kitchen: _Kitchen, folder: Path, advance: Advance) -> SoupReport:
    """Choose, write, judge and verify, in a folder that is not yet in its place."""
    wanted, scratch = kitchen.wanted, folder / "tried"
    offered: list[_Tasted] = []
    for place in range(len(kitchen.ingredients)) if kitchen.sets else ():
        offered.append(kitchen.judged(kitchen.with_mean((place,), scratch)))
        advance(offered[-1].judged.selection_loss)

    def taste(members: tuple[int, ...]) -> float:
        loss = kitchen.selection_loss(kitchen.with_mean(members, scratch))
        advance(loss)
        return loss

    losses = [each.judged.selection_loss for each in offered]
    tried: tuple[Tasting, ...] = greedy(losses, taste) if wanted.method == "greedy" else ()
    members = kept(tried).members if tried else tuple(range(len(kitchen.ingredients)))
    remove(folder)
    write_soup([kitchen.ingredients[place] for place in members], kitchen.layout, folder)
    if len(members) == 1:
        soup: _Tasted | None = offered[members[0]]
    else:
        soup = kitchen.judged(kitchen.load(folder)) if kitchen.sets else None
    seen = _verified(kitchen, folder)
    advance()
    report = _report(kitchen, offered, tried, members, soup, seen)
    (folder / "soup.json").write_text(report.model_dump_json(indent=2) + "\n")
    # Only whether there is a file to run decides how it loads.
    form = ExportedForm({}, {f"{MODULE}.py": ""} if report.remote_code else {})
    (folder / "README.md").write_text(soup_card(report, form.loading_lines("path/to/this/folder")))
    return report


@torch.no_grad()
def _verified(kitchen: _Kitchen, folder: Path) -> FreshLoad:
    """Hold the folder to the logits that it has here, in a process that never imported Secateur."""
    model = kitchen.load(folder, "cpu", "float32")
    probe = _probe(kitchen, model)
    logits = model.model(input_ids=probe, use_cache=False).logits.float()
    counted = sum(each.numel() for each in model.model.parameters())
    model.model.to("meta")  # type: ignore[arg-type]
    seen = load_in_fresh_process(folder, model.tokenizer, probe, logits, remote_code=kitchen.remote_code)
    if seen.num_parameters != counted:
        raise ExportError(f"{folder} has {seen.num_parameters} parameters when loaded, {counted} were averaged")
    if not seen.max_logit_difference <= MAX_LOGIT_DIFFERENCE:
        raise ExportError(f"{folder} gives logits that differ by {seen.max_logit_difference:.2e} once it is loaded")
    return seen


def _probe(kitchen: _Kitchen, model: NamedModel) -> Int[Tensor, "windows length"]:
    if kitchen.sets:
        return kitchen.sets[Role.SELECTION].tokens[:PROBE_WINDOWS]
    generator = torch.Generator().manual_seed(derive_seed(kitchen.wanted.seed, "soup probe"))
    vocabulary = min(len(model.tokenizer), int(model.model.config.vocab_size))
    return torch.randint(vocabulary, (PROBE_WINDOWS, PROBE_LENGTH), generator=generator)


def _report(
    kitchen: _Kitchen,
    offered: Sequence[_Tasted],
    tried: tuple[Tasting, ...],
    members: tuple[int, ...],
    soup: _Tasted | None,
    seen: FreshLoad,
) -> SoupReport:
    wanted = kitchen.wanted
    names = distinct_names(wanted.ingredients)
    losses = [each.judged.selection_loss for each in offered]
    best = min(range(len(losses)), key=lambda place: losses[place], default=None)
    comparison = None
    if soup is not None and best is not None:
        per_window = kitchen.sets[Role.EVALUATION].sequence_length - 1
        comparison = compare_paired(
            f"{wanted.method} soup",
            names[best],
            soup.judged.perplexity.protocol,
            (soup.losses.double() - offered[best].losses.double()) * per_window,
            torch.full((len(soup.losses),), float(per_window)),
            derive_seed(wanted.seed, "soup"),
            EVALUATION.confidence,
        )
    method: Literal["greedy", "uniform"] = "greedy" if wanted.method == "greedy" else "uniform"
    return SoupReport(
        secateur=version("secateur"),
        method=method,
        base=wanted.base.name if wanted.base else None,
        base_fingerprint=kitchen.base.fingerprint if kitchen.base else None,
        ingredients=tuple(
            IngredientRecord(
                name=name,
                fingerprint=each.fingerprint,
                used=place in members,
                judged=offered[place].judged if offered else None,
            )
            for place, (name, each) in enumerate(zip(names, kitchen.ingredients, strict=True))
        ),
        tried=tried,
        soup=soup.judged if soup else None,
        best=best,
        comparison=comparison,
        data=tuple(Path(source).name for source in wanted.sources),
        selection_tokens=kitchen.sets[Role.SELECTION].num_tokens if kitchen.sets else 0,
        evaluation_tokens=kitchen.sets[Role.EVALUATION].num_tokens if kitchen.sets else 0,
        dtype=stored_dtype(kitchen.layout),
        class_name=seen.class_name,
        remote_code=kitchen.remote_code,
        num_parameters=seen.num_parameters,
        max_logit_difference=seen.max_logit_difference,
    )


def stored_dtype(model: StoredModel) -> str:
    """Name the type in which most of a model is stored."""
    sizes: Counter[str] = Counter()
    for head in model.heads.values():
        sizes[head.dtype] += math.prod(head.shape)
    most = DTYPES[sizes.most_common(1)[0][0]]
    return str(most).removeprefix("torch.")


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Give the last parts of each path, as many as tell them apart."""
    parts = [each.resolve().parts for each in folders]
    depth = next(n for n in range(1, max(map(len, parts)) + 1) if len({p[-n:] for p in parts}) == len(parts))
    return ["/".join(each[-depth:]) for each in parts]
