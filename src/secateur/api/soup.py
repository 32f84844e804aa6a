"""`secateur.soup`: finished recoveries of the same pruned model become one."""

from collections.abc import Sequence
from pathlib import Path

from secateur.api.texts import Text, as_sources
from secateur.report.soup import SoupReport
from secateur.runs.progress import Listener, heard_by
from secateur.stages.soup import SoupRequest, make_soup


def soup(
    ingredients: Sequence[str | Path],
    out: str | Path,
    *,
    data: Text | None = None,
    method: str = "greedy",
    base: str | Path | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    callbacks: Sequence[Listener] = (),
) -> SoupReport:
    """Average the weights of recovered models into a folder: what `secateur soup` does.

    Args:
        ingredients: Folders of recoveries of the same pruned model, whole or as LoRA adapters.
        out: Folder to write; it appears whole or not at all.
        data: Text, of which a share of the documents chooses what goes in, and another share is reported on.
        method: `greedy`, or `uniform` for all of them, which needs no text.
        base: What adapters are merged into.
        callbacks: Are told events.

    Returns:
        What is in `soup.json`: what went in, and what it is worth.

    Raises:
        ConfigError, ModelError, DataError, RunFolderError: It cannot be made as asked; nothing was written.
        ExportError: The folder does not load elsewhere, or does not behave like the model that was measured.
    """
    sources = as_sources(data) if data is not None else None
    wanted = SoupRequest(
        ingredients=tuple(map(Path, ingredients)),
        out=Path(out),
        method=method,
        sources=sources.names if sources else (),
        base=Path(base) if base is not None else None,
        device=device,
        trust_remote_code=trust_remote_code,
        texts=sources.texts if sources else {},
    )
    return make_soup(wanted, heard_by(*callbacks))
