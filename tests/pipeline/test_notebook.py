"""The notebook runs from top to bottom, without network, and shows what it says."""

import ast
import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import secateur

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "prune_in_a_notebook.ipynb"


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_well_formed_small_and_names_what_is_public() -> None:
    notebook = read()
    nbformat.validate(notebook)
    assert NOTEBOOK.stat().st_size < 300_000
    assert not any(word in NOTEBOOK.read_text() for word in ("/work", "/root", "/home", "/tmp"))
    used = set()
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        assert not [o for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"]
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "secateur":
                used.add(node.attr)
    assert used <= set(secateur.__all__)
    assert {"prune", "weight_bank", "fit_predictor", "cut", "export_model"} <= used


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    notebook = read()
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    said = {tag: outputs(cell) for cell in notebook.cells for tag in cell.metadata.get("tags", [])}
    assert "the same logits: True" in said["save"]
    assert "<table>" in said["result"]
    assert "image/png" in said["plot"]
    first, second = (float(loss) for loss in said["lora"].rsplit("loss ", 1)[1].split(", then "))
    assert second < first
    as_cut, reconstructed = kl_of(said["cut"])
    assert reconstructed < as_cut
    assert "trust_remote_code=True" in said["export"]


def kl_of(line: str) -> tuple[float, float]:
    words = line.replace(",", "").split()
    return float(words[1]), float(words[4])


def outputs(cell: Any) -> str:
    """All that a cell has printed or shown, but for what libraries say on the side; pictures by their type."""
    said = [output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout"]
    shown = [output.data for output in cell.outputs if output.output_type in ("display_data", "execute_result")]
    return "\n".join(
        [*said, *(data.get("text/html", "") for data in shown), *(kind for data in shown for kind in data)]
    )
