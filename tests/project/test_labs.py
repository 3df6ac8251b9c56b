"""The labs are graded as in a course: nbgrader makes the student release, and grades what students might hand in.

The whole course runs in a temporary folder, with a gradebook of its own. Wrong answers are written into the notebook
that students get, in place of the stub.
"""

import functools
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from lab_mistakes import MISTAKES, STUDENTS

LABS = Path(__file__).parents[2] / "tutorials" / "labs"
NAMES = sorted(path.parent.name for path in LABS.glob("*/*.ipynb"))
STUB = "raise NotImplementedError("

pytestmark = [
    pytest.mark.labs,
    pytest.mark.filterwarnings("ignore"),  # of the grader's plumbing; a cell that fails still costs its points
]


def grade_id(cell):
    return cell.metadata.get("nbgrader", {}).get("grade_id")


@dataclass(frozen=True)
class Graded:
    """What came back: the score and what a failing cell said, for each graded cell by its id."""

    score: dict[str, float]
    most: dict[str, float]
    said: dict[str, str]

    @property
    def lost(self):
        return {name for name, points in self.score.items() if points < self.most[name]}


class Course:
    """A course folder with one released lab."""

    def __init__(self, root, lab):
        from nbgrader.apps.api import NbGraderAPI  # only this module needs it
        from traitlets.config import Config
        from traitlets.config.loader import PyFileConfigLoader

        self.root, self.lab = root, lab
        shutil.copytree(LABS / lab, root / "source" / lab)
        config = Config(PyFileConfigLoader("nbgrader_config.py", path=str(LABS)).load_config())
        config.CourseDirectory.root = str(root)
        self.api = NbGraderAPI(config=config)
        self.check(self.api.generate_assignment(lab))

    @staticmethod
    def check(result):
        assert result["success"], f"{result.get('error')}\n{result.get('log')}"

    def release(self):
        return nbformat.read(self.root / "release" / self.lab / f"{self.lab}.ipynb", as_version=4)

    def source(self):
        return nbformat.read(LABS / self.lab / f"{self.lab}.ipynb", as_version=4)

    def grade(self, student, answers):
        """Hands in the student release with some solution cells replaced, and has it graded."""
        notebook = self.release()
        waiting = dict(answers)
        for cell in notebook.cells:
            if grade_id(cell) in waiting:
                assert cell.metadata.nbgrader.solution, f"{grade_id(cell)} is no answer cell"
                cell.source = waiting.pop(grade_id(cell))
        assert not waiting, f"the lab has no cells {list(waiting)}"
        folder = self.root / "submitted" / student / self.lab
        folder.mkdir(parents=True)
        nbformat.write(notebook, folder / f"{self.lab}.ipynb")
        self.check(self.api.autograde(self.lab, student))
        with self.api.gradebook as gradebook:
            handed_in = gradebook.find_submission_notebook(self.lab, self.lab, student)
            grades = {grade.name: grade for grade in handed_in.grades}
            score = {name: grade.score for name, grade in grades.items()}
            most = {name: grade.max_score for name, grade in grades.items()}
        return Graded(score, most, self._said(student))

    def _said(self, student):
        path = self.root / "autograded" / student / self.lab / f"{self.lab}.ipynb"
        said = {}
        for cell in nbformat.read(path, as_version=4).cells:
            errors = [o for o in cell.get("outputs", []) if o.output_type == "error"]
            if errors:
                said[grade_id(cell) or cell.id] = f"{errors[0].ename}: {errors[0].evalue}"
        return said


def solutions(notebook):
    return {grade_id(c): c.source for c in notebook.cells if c.metadata.get("nbgrader", {}).get("solution")}


@pytest.fixture(scope="module")
def courses(tmp_path_factory):
    """Makes the course of a lab when it is first asked for."""
    with pytest.MonkeyPatch.context() as patch:  # the gradebook asks the program `alembic` for its version, by name
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        yield functools.cache(lambda lab: Course(tmp_path_factory.mktemp(lab), lab))


@pytest.fixture
def course(request, courses):
    return courses(request.param)


@pytest.mark.parametrize("course", NAMES, indirect=True)
def test_the_release_shows_neither_solutions_nor_hidden_tests(course):
    source, release = course.source(), course.release()
    assert [grade_id(cell) for cell in source.cells] == [grade_id(cell) for cell in release.cells]
    for cell in release.cells:
        for secret in ("SOLUTION", "HIDDEN"):
            assert secret not in cell.source
    answers = solutions(release)
    assert answers
    assert all(STUB in answer for answer in answers.values())
    tests = [cell for cell in source.cells if cell.metadata.get("nbgrader", {}).get("grade")]
    assert any("BEGIN HIDDEN TESTS" in cell.source for cell in tests)
    for cell in release.cells:
        if cell.metadata.get("nbgrader", {}).get("grade"):
            assert "assert " in cell.source, f"nothing of {grade_id(cell)} is left to see"


@pytest.mark.parametrize("course", NAMES, indirect=True)
def test_every_assert_of_a_graded_cell_says_what_is_likely_wrong(course):
    import ast

    for cell in course.source().cells:
        if cell.metadata.get("nbgrader", {}).get("grade"):
            for node in ast.walk(ast.parse(cell.source)):
                assert not isinstance(node, ast.Assert) or node.msg is not None, ast.unparse(node)


@pytest.mark.parametrize("course", NAMES, indirect=True)
def test_the_solution_scores_full_marks(course):
    graded = course.grade("solution", solutions(course.source()))
    assert not graded.said
    assert graded.score == graded.most
    assert sum(graded.score.values()) == 20


@pytest.mark.parametrize("course", NAMES, indirect=True)
def test_the_untouched_student_version_scores_zero_without_crashing(course):
    graded = course.grade("untouched", {})
    assert graded.most
    assert set(graded.score.values()) == {0.0}
    assert all("write your answer here" in graded.said[name] for name in graded.score), graded.said


@pytest.mark.parametrize(
    ("course", "student"), [(MISTAKES[made[0]].lab, name) for name, made in STUDENTS.items()], indirect=["course"]
)
def test_typical_wrong_answers_lose_the_right_points_and_are_told_why(course, student):
    made = [MISTAKES[name] for name in STUDENTS[student]]
    assert {mistake.lab for mistake in made} == {course.lab}
    graded = course.grade(student, {**solutions(course.source()), **{mistake.cell: mistake.code for mistake in made}})
    assert graded.lost == {cell for mistake in made for cell in mistake.loses}
    assert all(graded.score[cell] == 0 for cell in graded.lost)
    for mistake in made:
        assert mistake.hint in graded.said[mistake.loses[0]]


def test_the_mistakes_cover_every_lab_and_somebody_makes_each():
    assert {mistake.lab for mistake in MISTAKES.values()} == set(NAMES)
    assert sorted(name for made in STUDENTS.values() for name in made) == sorted(MISTAKES)
