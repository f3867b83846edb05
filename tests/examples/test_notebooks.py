"""The notebooks of examples/ run from their first cell to their last."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(path.name for path in EXAMPLES.glob("*.ipynb"))
PRINTED = {
    "quickstart.ipynb": ("20: 20 ok", "mean IoU", "equal to segray's: True"),
    "review.ipynb": ("16: 16 ok", "10 segments corrected", "rows in the log", "16: 16 exported"),
}
LEFT = {"quickstart.ipynb": "run/best", "review.ipynb": "coco/annotations/instances_train2017.json"}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_notebook_runs(tmp_path: Path, name: str) -> None:
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    NotebookClient(
        notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    for text in PRINTED[name]:
        assert text in printed
    assert (tmp_path / LEFT[name]).exists()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_notebook_is_stored_without_outputs(name: str) -> None:
    cells = [cell for cell in nbformat.read(EXAMPLES / name, as_version=4).cells if cell.cell_type == "code"]
    assert cells
    assert not [cell for cell in cells if cell.outputs or cell.execution_count]
