"""Secateur makes large language models smaller.

A small number of pruned architectures of the user's own model is measured; an accuracy predictor learned from them
decides how much of every layer goes under the budget. `secateur.prune` is the whole of it, `secateur prune` the same
from a terminal; `docs/python.md` shows the stages by themselves. Once `import secateur` is done, transformers loads
exported models whose layers differ without `trust_remote_code=True`.

What is listed in `__all__` is public, and imported when it is asked for: `import secateur` loads nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from secateur.export.registration import register_with_transformers

if TYPE_CHECKING:
    from secateur.api.foundations import dense_model, search_space, token_sets, weight_bank
    from secateur.api.making import Evaluation, cut, evaluate, export_model, reconstruct
    from secateur.api.measuring import Measurer, search_architectures
    from secateur.api.predictor import FittedPredictor, fit_predictor
    from secateur.api.prune import open_run, prune
    from secateur.api.pruned import PrunedModel
    from secateur.api.recovering import recover
    from secateur.api.result import PruneResult
    from secateur.api.soup import soup
    from secateur.config import RunConfig
    from secateur.data import Role, TokenSet
    from secateur.demo import decoder_path, generate_documents
    from secateur.errors import (
        BudgetError,
        ConfigError,
        DataError,
        ExecutionError,
        ExportError,
        InputError,
        ModelError,
        RunFolderError,
        SecateurError,
    )
    from secateur.execution.settings import Execution
    from secateur.recipe import Recipe
    from secateur.recovery.recover import RecoveryRecord
    from secateur.report.front import Front, FrontPoint
    from secateur.report.record import Report
    from secateur.runs.progress import Event, StageAdvanced, StageEnded, StageStarted
    from secateur.space.architecture import Architecture
    from secateur.space.candidate import Measurement
    from secateur.space.cost import Budget
    from secateur.space.sampling import sample_architectures
    from secateur.space.search_space import SearchSpace

# The same for when the program runs: module -> names.
_PUBLIC = {
    "secateur.api.foundations": ("dense_model", "search_space", "token_sets", "weight_bank"),
    "secateur.api.making": ("Evaluation", "cut", "evaluate", "export_model", "reconstruct"),
    "secateur.api.measuring": ("Measurer", "search_architectures"),
    "secateur.api.predictor": ("FittedPredictor", "fit_predictor"),
    "secateur.api.prune": ("open_run", "prune"),
    "secateur.api.pruned": ("PrunedModel",),
    "secateur.api.recovering": ("recover",),
    "secateur.api.result": ("PruneResult",),
    "secateur.api.soup": ("soup",),
    "secateur.config": ("RunConfig",),
    "secateur.data": ("Role", "TokenSet"),
    "secateur.demo": ("decoder_path", "generate_documents"),
    "secateur.errors": (
        "BudgetError",
        "ConfigError",
        "DataError",
        "ExecutionError",
        "ExportError",
        "InputError",
        "ModelError",
        "RunFolderError",
        "SecateurError",
    ),
    "secateur.execution.settings": ("Execution",),
    "secateur.recipe": ("Recipe",),
    "secateur.recovery.recover": ("RecoveryRecord",),
    "secateur.report.front": ("Front", "FrontPoint"),
    "secateur.report.record": ("Report",),
    "secateur.runs.progress": ("Event", "StageAdvanced", "StageEnded", "StageStarted"),
    "secateur.space.architecture": ("Architecture",),
    "secateur.space.candidate": ("Measurement",),
    "secateur.space.cost": ("Budget",),
    "secateur.space.sampling": ("sample_architectures",),
    "secateur.space.search_space": ("SearchSpace",),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [
    "Architecture",
    "Budget",
    "BudgetError",
    "ConfigError",
    "DataError",
    "Evaluation",
    "Event",
    "Execution",
    "ExecutionError",
    "ExportError",
    "FittedPredictor",
    "Front",
    "FrontPoint",
    "InputError",
    "Measurement",
    "Measurer",
    "ModelError",
    "PruneResult",
    "PrunedModel",
    "Recipe",
    "RecoveryRecord",
    "Report",
    "Role",
    "RunConfig",
    "RunFolderError",
    "SearchSpace",
    "SecateurError",
    "StageAdvanced",
    "StageEnded",
    "StageStarted",
    "TokenSet",
    "cut",
    "decoder_path",
    "dense_model",
    "evaluate",
    "export_model",
    "fit_predictor",
    "generate_documents",
    "open_run",
    "prune",
    "reconstruct",
    "recover",
    "sample_architectures",
    "search_architectures",
    "search_space",
    "soup",
    "token_sets",
    "weight_bank",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_with_transformers()
