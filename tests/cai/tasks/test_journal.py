"""A study that was killed goes on where it was and ends with the same bytes; another question is refused in words."""

import json
import logging
import multiprocessing
import os
import signal

import pytest
from tasks_bits import bits

import cai
from cai.inference.programs.svi import GuideLearner
from cai.models import bridge, lottery
from cai.models.common.storage import StorageError
from cai.tasks.journal import Journal
from cai.tasks.mapping import run_tasks


class Counted:
    """Squares a number, and remembers what it was asked; raises at one of them."""

    def __init__(self, fails_at=None, error=RuntimeError):
        self.asked, self.fails_at, self.error = [], fails_at, error

    def __call__(self, item):
        self.asked.append(item)
        if item == self.fails_at:
            raise self.error
        return {"square": item**2, "third": item / 3}


def run(folder, function, **question):
    journal = Journal(folder, {"kind of study": "squares", **question})
    return run_tasks(function, range(10), label="squares", journal=journal)


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_what_was_done_is_not_done_again_and_all_files_end_the_same(error, tmp_path, caplog):
    whole = run(tmp_path / "whole", Counted())
    with pytest.raises(error):
        run(tmp_path / "cut", Counted(fails_at=6, error=error))
    assert "6 of 10 parts are kept in" in caplog.text
    rest = Counted()
    assert run(tmp_path / "cut", rest) == whole
    assert rest.asked == [6, 7, 8, 9]
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    again = Counted()
    assert run(tmp_path / "cut", again) == whole
    assert again.asked == []


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "of another study", "swapped"])
def test_a_damaged_file_is_named_and_its_tasks_are_done_again(damage, tmp_path, caplog):
    whole = run(tmp_path / "study", Counted())
    before = content(tmp_path / "study")
    path = tmp_path / "study" / "tasks-003.safetensors"
    if damage == "of another study":
        run(tmp_path / "other", Counted(), seeds="1")
        path.write_bytes((tmp_path / "other" / path.name).read_bytes())
    elif damage == "swapped":
        path.write_bytes((tmp_path / "study" / "tasks-004.safetensors").read_bytes())
    else:
        data = path.read_bytes()
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        path.write_bytes({"cut": data[:middle], "empty": b"", "flipped": flipped}[damage])
    rest = Counted()
    with caplog.at_level(logging.WARNING):
        assert run(tmp_path / "study", rest) == whole
    assert "tasks-003.safetensors" in caplog.text
    assert rest.asked == [3]
    assert content(tmp_path / "study") == before


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("{", "damaged"),
        ('{"layout": 2, "question": {}}', "layout is 2"),
        ("[]", "damaged"),
        ('{"layout": 1}', "damaged"),
    ],
)
def test_a_study_that_cannot_be_read_is_named(text, pattern, tmp_path):
    run(tmp_path, Counted())
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(StorageError, match=rf"study\.json.*{pattern}"):
        run(tmp_path, Counted())


def test_a_study_needs_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="is a file; a study needs a folder"):
        run(tmp_path / "file", Counted())
    with pytest.raises(ValueError, match="folder is '', which stands for no folder"):
        run("", Counted())


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"seed": 1}, "differs in the seeds: 0 before, 1 now;"),
        (
            {"backends": ["exact", "risk:eta=3"]},
            r"differs in the backends: exact, risk\(eta=2\) before, exact, risk\(eta=3\) now",
        ),
        ({"num_rollouts": 11}, "differs in the trials of policies: num_rollouts=10 before, num_rollouts=11 now"),
        ({"model": bridge(slip=0.3)}, "differs in the content of the model;"),
        ({"model": lottery()}, "differs in the model: bridge before, lottery now"),
    ],
)
def test_another_question_is_refused_in_words(change, pattern, tmp_path):
    asked = {"model": bridge(), "backends": ["exact", "risk:eta=2"], "num_rollouts": 10, "seed": 0}
    cai.compare(**asked, folder=tmp_path)
    with pytest.raises(ValueError, match=f"asks something else, and {pattern}.*give another folder"):
        cai.compare(**asked | change, folder=tmp_path)
    cai.compare(**asked | {"model": bridge()}, folder=tmp_path)  # an equal model, built anew


def test_a_sweep_is_no_comparison_and_no_sweep_of_other_values(tmp_path):
    cai.sweep("lottery", "risk", eta=[1.0, 2.0], folder=tmp_path)
    with pytest.raises(ValueError, match="differs in the kind of study: sweep of risk over eta before, compare now"):
        cai.compare(lottery(), ["exact"], folder=tmp_path)
    with pytest.raises(ValueError, match=r"differs in the values: 1\.0, 2\.0 before, 1\.0, 3\.0 now"):
        cai.sweep("lottery", "risk", eta=[1.0, 3.0], folder=tmp_path)
    with pytest.raises(ValueError, match="seed=None draws another seed each time"):
        cai.sweep("lottery", "risk", eta=[1.0, 2.0], seed=None, folder=tmp_path)


def test_rows_from_a_folder_are_those_without_one(tmp_path):
    model = bridge()
    plain = cai.compare(model, ["exact", "variational"], num_rollouts=20)
    for _ in range(2):
        kept = cai.compare(model, ["exact", "variational"], num_rollouts=20, folder=tmp_path)
        assert bits(kept.rows) == bits(plain.rows)
        assert all(row.posterior.model is model for row in kept.rows)
    assert kept.plot().axes


def test_ctrl_c_keeps_no_half_answer(tmp_path, monkeypatch):
    """A learner that is interrupted answers with the best so far; a folder must not take that for the answer."""
    step, calls = GuideLearner.step, []

    def interrupted(self, state):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return step(self, state)

    asked = ["exact", "variational:solver=svi,max_iterations=20"]
    whole = cai.compare(lottery(), asked)
    monkeypatch.setattr(GuideLearner, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cai.compare(lottery(), asked, folder=tmp_path)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["study.json", "tasks-000.safetensors"]
    assert bits(cai.compare(lottery(), asked, folder=tmp_path).rows) == bits(whole.rows)


def _killed_in_the_middle(folder):
    def kill(number, results):
        if number == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return keep(number, results)

    journal = Journal(folder, {"kind of study": "squares"})
    keep = journal.keep
    journal.keep = kill
    run_tasks(Counted(), range(10), label="squares", journal=journal)


def test_a_killed_process_leaves_what_it_had_done(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_killed_in_the_middle, args=(tmp_path / "cut",))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    rest = Counted()
    assert run(tmp_path / "cut", rest) == run(tmp_path / "whole", Counted())
    assert rest.asked == [4, 5, 6, 7, 8, 9]
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_the_question_can_be_read(tmp_path):
    cai.sweep("bridge", "exact", model_options={"slip": [0.0, 0.1]}, seeds=[3, 4], num_rollouts=10, folder=tmp_path)
    question = json.loads((tmp_path / "study.json").read_text())["question"]
    assert question["kind of study"] == "sweep of exact over slip"
    assert (question["values"], question["seeds"], question["model"]) == ("0.0, 0.1", "3, 4", "bridge")
    assert question["version of cai"]
