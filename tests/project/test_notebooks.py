"""Every notebook runs from top to bottom, prints what its answers say, and draws nothing that misleads."""

import math
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "tutorials").rglob("*.ipynb"))
LABS = [path for path in NOTEBOOKS if "labs" in path.relative_to(ROOT).parts]
TUTORIALS = [path for path in NOTEBOOKS if path not in LABS]
COURSE = [path for path in NOTEBOOKS if re.match(r"\d\d_", path.name)]
CHECKS = ROOT / "tests" / "figure_checks.py"
WATCH = f"""
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("figure_checks", {str(CHECKS)!r})
figure_checks = module_from_spec(spec)
spec.loader.exec_module(figure_checks)
figure_checks.watch()
"""
UNSEEN = 5  # code cells in a row without a picture, at most
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def hidden_answer(cell):
    """The code of an exercise's answer and what it is said to print, or None."""
    code = re.search(r"```python\n(.*?)```", cell.source, re.S)
    said = re.search(r"```text\n(.*?)```", cell.source, re.S)
    if cell.cell_type != "markdown" or "<details>" not in cell.source or not code or not said:
        return None
    return code.group(1), said.group(1)


def alike(printed, said):
    """The same words, and numbers that differ by other orders of summation alone, so by one in a third decimal."""
    words = [NUMBER.sub("#", text).split() for text in (printed, said)]
    numbers = zip(*([float(number) for number in NUMBER.findall(text)] for text in (printed, said)), strict=True)
    return words[0] == words[1] and all(math.isclose(a, b, rel_tol=1e-3, abs_tol=2e-3) for a, b in numbers)


def shows_picture(cell):
    return any("image/png" in output.get("data", {}) for output in cell.outputs)


@pytest.mark.notebooks
@pytest.mark.filterwarnings("ignore")  # of the kernel's plumbing; a cell that fails still fails
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path):
    notebook = nbformat.read(path, as_version=4)
    answers = [answer for cell in notebook.cells if (answer := hidden_answer(cell))]
    notebook.cells.insert(0, new_code_cell(WATCH))
    notebook.cells.append(new_code_cell("print('\\n'.join(figure_checks.FAULTS))"))
    questions = len(notebook.cells)
    notebook.cells += [new_code_cell(code) for code, _ in answers]
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    misleading = "".join(output.text for output in notebook.cells[questions - 1].outputs).strip()
    assert not misleading, f"{path.name}: figures that mislead:\n{misleading}"
    for cell, (_, said) in zip(notebook.cells[questions:], answers, strict=True):
        printed = "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
        assert alike(printed, said), f"{path.name}: an answer prints\n{printed}\nand is said to print\n{said}"


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_notebook_is_committed_with_its_outputs(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)


# Outputs of a lab are those of its solution, and its release is made of the source: they would give the answers away.
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_without_progress_bars_and_times(path):
    """A finished bar says nothing, and its state is longer than the rest of a notebook; times differ at each run."""
    notebook = nbformat.read(path, as_version=4)
    assert not [cell.id for cell in notebook.cells if "execution" in cell.metadata]
    assert "widgets" not in notebook.metadata
    shown = [kind for cell in notebook.cells for output in cell.get("outputs", []) for kind in output.get("data", {})]
    assert not [kind for kind in shown if "widget" in kind]


@pytest.mark.parametrize("path", LABS, ids=lambda path: path.stem)
def test_lab_is_committed_without_outputs(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)


def test_there_are_notebooks():
    assert TUTORIALS
    assert LABS
    assert len(COURSE) >= 6


@pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)
class TestCourse:
    """A reader finds the same things in the same places."""

    def test_opens_with_what_the_reader_will_be_able_to_do(self, path):
        first = nbformat.read(path, as_version=4).cells[0]
        assert first.cell_type == "markdown"
        assert first.source.startswith("# ")
        title, _, aims = first.source.partition("you will be able to")
        assert title
        assert len(re.findall(r"(?m)^\* ", aims)) >= 3, "list at least three aims behind 'you will be able to'"

    def test_has_exercises_with_hidden_answers(self, path):
        cells = nbformat.read(path, as_version=4).cells
        assert any(re.search(r"(?m)^## (\d+\. )?Exercises$", cell.source) for cell in cells)
        exercises = [i for i, cell in enumerate(cells) if cell.source.startswith("**Exercise ")]
        assert len(exercises) >= 3
        for i in exercises:
            inside = re.search(r"<details>\n<summary>.*?</summary>\n\n.*\n\n</details>$", cells[i].source, re.S)
            behind = cells[i + 1].metadata.get("jupyter", {}).get("source_hidden")  # a collapsed cell will do, too
            assert inside or behind, f"the answer of exercise cell {i} is in sight, or there is none"

    def test_ends_with_references(self, path):
        last = nbformat.read(path, as_version=4).cells[-1]
        assert last.cell_type == "markdown"
        _, heading, references = last.source.partition("## References\n")
        assert heading
        assert re.search(r"(?m)^\* .*\(\d{4}\)", references), "list the references, each with its year"

    def test_has_a_picture_every_few_cells(self, path):
        unseen = 0
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                unseen = 0 if shows_picture(cell) else unseen + 1
                assert unseen <= UNSEEN, f"{unseen} code cells without a picture, up to:\n{cell.source[:200]}"
