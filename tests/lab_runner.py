"""Runs a lab with each answer of a list in place of the right one: python -P lab_runner.py NOTEBOOK ANSWERS.

The cells are run once, in order; where an answer cell stands, a forked process takes another answer and runs on to the
first graded cell that fails. So a hundred answers cost little more than one run of the notebook. Prints a line of JSON
for each: its number, and null or the graded cell and what it says. (-P keeps tests/cai from standing in for the
package.)

A file of answers holds code cells, each under a line `#### CELL | what it does | a part of what is said`; of right
answers that part is PASSES.
"""

import contextlib
import io
import json
import os
import re
import sys
import traceback
from pathlib import Path


def read_answers(path):
    """[(cell, label, expected part, code)] of a file."""
    parts = re.split(r"^#### ", Path(path).read_text(), flags=re.MULTILINE)[1:]
    heads = [part.split("\n", 1) for part in parts]
    return [(*(word.strip() for word in head.split("|", 2)), code) for head, code in heads]


def grade_id(cell):
    return cell["metadata"].get("nbgrader", {}).get("grade_id")


def execute(source, space):
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(source, "cell", "exec"), space)  # a notebook is nothing else


def first_failure(cells, space, whole):
    """(graded cell, what it says), or None; stops at the first graded cell unless the whole notebook is asked for."""
    for cell in cells:
        if cell["metadata"].get("nbgrader", {}).get("grade"):
            try:
                execute("".join(cell["source"]), space)
            except Exception as error:  # whatever an answer does is what its student sees
                return grade_id(cell), f"{type(error).__name__}: {error}"
        elif whole or "plt." not in "".join(cell["source"]):
            try:
                execute("".join(cell["source"]), space)
            except Exception:
                traceback.print_exc()
    return None


def main(notebook, answers):
    import matplotlib

    matplotlib.use("Agg")
    import torch

    torch.set_num_threads(1)
    cells = [cell for cell in json.loads(Path(notebook).read_text())["cells"] if cell["cell_type"] == "code"]
    space = {"__name__": "__main__"}
    for at, cell in enumerate(cells):
        execute("".join(cell["source"]), space)  # right first: a cell may need names of its own answer
        for number, (where, _, part, code) in enumerate(answers):
            if where == grade_id(cell):
                sys.stdout.flush()
                child = os.fork()
                if child == 0:
                    try:
                        execute(code, space)
                        failed = first_failure(cells[at + 1 :], space, whole=part == "PASSES")
                    except Exception as error:
                        failed = where, f"{type(error).__name__}: {error}"
                    print(json.dumps([number, failed]), flush=True)
                    os._exit(0)
                os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1], read_answers(sys.argv[2]))
