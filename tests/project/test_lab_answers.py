"""What students might write, many answers a lab: mistakes are named by the first graded cell that they fail, and right
answers that are written otherwise pass."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lab_runner import read_answers

TESTS = Path(__file__).parents[1]
LABS = TESTS.parent / "tutorials" / "labs"
FILES = sorted((TESTS / "lab_answers").glob("*.txt"))

pytestmark = pytest.mark.labs


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_mistakes_are_named_and_right_answers_pass(file):
    notebook = LABS / file.stem / f"{file.stem}.ipynb"
    command = [sys.executable, "-P", str(TESTS / "lab_runner.py"), str(notebook), str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = dict(json.loads(line) for line in done.stdout.splitlines())
    answers = read_answers(file)
    assert sorted(said) == list(range(len(answers))), "an answer stands for no cell, or its process died"
    assert len([part for _, _, part, _ in answers if part != "PASSES"]) >= 10
    wrong = []
    for number, (cell, label, part, _) in enumerate(answers):
        failed = said[number]
        own = cell.replace("answer", "test")
        fits = failed is None if part == "PASSES" else failed is not None and failed[0] == own and part in failed[1]
        if not fits:
            wrong.append(f"{cell}, {label}: expected {part!r}, and got {failed}")
    assert not wrong, "\n".join(wrong)
