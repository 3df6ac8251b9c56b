"""Every notebook runs from top to bottom."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "tutorials").rglob("*.ipynb"))
LABS = [path for path in NOTEBOOKS if "labs" in path.relative_to(ROOT).parts]
TUTORIALS = [path for path in NOTEBOOKS if path not in LABS]


@pytest.mark.notebooks
@pytest.mark.filterwarnings("ignore")  # of the kernel's plumbing; a cell that fails still fails
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path):
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_notebook_is_committed_with_its_outputs(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)


# Outputs of a lab are those of its solution, and its release is made of the source: they would give the answers away.
@pytest.mark.parametrize("path", LABS, ids=lambda path: path.stem)
def test_lab_is_committed_without_outputs(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)


def test_there_are_notebooks():
    assert TUTORIALS
    assert LABS
