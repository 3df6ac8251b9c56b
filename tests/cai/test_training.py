"""Learning from the command line: train, resume, watch; JSON, exit codes."""

import json

import pytest

from cai.cli import main
from cai.inference.core.driver import Checkpoints

TRAIN = ["train", "CartPole-v1", "--backend", "soft-q-learning:hidden_sizes=8x8,batch_size=16", "--seed", "3"]
KEYS = ["world", "backend", "seed", "steps", "status", "seconds", "folder", "elbo"]
KEYS += ["deterministic_return", "stochastic_return"]


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main([str(part) for part in arguments])
    return end.value.code, *capsys.readouterr()


def test_train_resume_and_watch(capsys, tmp_path):
    folder = tmp_path / "run"
    code, out, _ = run(capsys, *TRAIN, "--steps", 300, "--folder", folder, "--discount", 0.9, "--json")
    told = json.loads(out)
    assert code == 0
    assert list(told) == KEYS
    assert (told["world"], told["backend"], told["seed"], told["steps"]) == ("CartPole-v1", "soft-q-learning", 3, 300)
    assert told["status"] == "success"
    assert set(told["stochastic_return"]) == {"mean", "standard_error", "episodes"}
    assert told["deterministic_return"]["episodes"] == 20
    code, out, _ = run(capsys, "resume", folder, "--steps", 400, "--json")
    assert code == 0
    assert json.loads(out)["steps"] == 400
    code, out, _ = run(capsys, "watch", folder, "--episodes", 2)
    assert code == 0
    assert "deterministic return: " in out
    count = (folder / "state.json").read_text()
    for damaged in (None, "", "[]", '{"steps": "many"}'):
        (folder / "state.json").unlink() if damaged is None else (folder / "state.json").write_text(damaged)
        code, _, err = run(capsys, "watch", folder, "--episodes", 2)
        assert (code, "state.json' is missing or damaged" in " ".join(err.split())) == (1, True), damaged
    (folder / "state.json").write_text(count)
    code, _, err = run(capsys, *TRAIN, "--steps", 300, "--folder", folder)
    assert (code, "holds a run already; go on with it by cai resume" in err) == (2, True)
    code, _, err = run(capsys, "resume", folder, "--steps", 300)
    assert (code, "has a budget of 400 transitions in all" in err) == (2, True)


def test_the_policy_of_another_run_is_not_watched(capsys, tmp_path):
    """In place of its own it ended in a traceback, or was told as this run's."""
    cart = [*TRAIN, "--steps", 100, "--folder", tmp_path / "cart"]
    box = ["train", "multi-goal", "--backend", "soft-actor-critic:hidden_sizes=8,batch_size=16"]
    tables = ["train", "bridge", "--backend", "soft-q-learning"]
    lines = (cart, [*box, "--steps", 150, "--folder", tmp_path / "goals"])
    lines += ([*tables, "--steps", 320, "--folder", tmp_path / "bridge"],)
    lines += (["train", "lottery", *tables[2:], "--steps", 320, "--folder", tmp_path / "lottery"],)
    names = ("cart", "goals", "bridge", "lottery")
    for line, name in zip(lines, names, strict=True):
        assert run(capsys, *line)[0] == 0, name
        assert run(capsys, "watch", tmp_path / name, "--episodes", 1)[0] == 0, name
    policies = {name: (tmp_path / name / "policy.safetensors").read_bytes() for name in names}
    for name in names:
        for other in set(names) - {name}:
            (tmp_path / name / "policy.safetensors").write_bytes(policies[other])
            code, _, err = run(capsys, "watch", tmp_path / name, "--episodes", 1)
            said = " ".join(err.split())
            assert code == 1, (name, other)
            assert "cannot act in" in said, (name, other)
            assert "it is one of another run, and cai resume" in said, (name, other)
        assert run(capsys, "resume", tmp_path / name)[0] == 0
        assert (tmp_path / name / "policy.safetensors").read_bytes() == policies[name]


def test_an_unstable_run_ends_with_1_and_leaves_no_policy(capsys, tmp_path):
    line = ["train", "CartPole-v1", "--backend", "soft-q-learning:hidden_sizes=8,batch_size=16,learning_rate=1e30"]
    for words in ([*line, "--steps", 300, "--folder", tmp_path / "run"], ["resume", tmp_path / "run"]):
        code, out, err = run(capsys, *words, "--json")
        told = json.loads(out)
        assert (code, told["status"], told["elbo"], told["stochastic_return"]) == (1, "unstable", None, None)
        assert "unstable: what the policy makes of an observation left the floats" in err
    code, _, err = run(capsys, "watch", tmp_path / "run")
    assert (code, "of one that ended with status 'unstable' none is left" in " ".join(err.split())) == (2, True)


def test_what_is_wrong_ends_with_2(capsys, tmp_path):
    for words in (["resume", tmp_path / "none"], ["watch", tmp_path / "none"]):
        code, _, err = run(capsys, *words)
        assert (code, "holds no run; cai train WORLD" in err) == (2, True)
    for backend, words in (
        (
            "exact",
            "backend 'exact' learns from no samples, so there is nothing to train; the learners are soft-q-learning",
        ),
        ("sac", "no learner is called 'sac' (did you mean 'soft-actor-critic'?); the learners are soft-q-learning"),
        ("soft-q-learning:steps=5", "has steps behind its name, and --steps says how many"),
    ):
        line = ["train", "bridge", "--backend", backend, "--steps", 9, "--folder", tmp_path / "x"]
        code, _, err = run(capsys, *line)
        assert (code, words in " ".join(err.split())) == (2, True)
    (tmp_path / "file").write_text("mine")
    line = ["train", "bridge", "--backend", "soft-q-learning", "--steps", 64, "--folder", tmp_path / "file"]
    code, _, err = run(capsys, *line)
    assert (code, "is no folder; give the path of one" in err) == (2, True)
    for world, words in (
        ("None-v0", "Gymnasium cannot make 'None-v0'"),
        ("brige", "no model and no environment of Gymnasium is called 'brige' (did you mean 'bridge'?); known models"),
        ("Pendulum", "is called 'Pendulum' (did you mean 'Pendulum-v1'?)"),
        ("Pendulumv1", "is called 'Pendulumv1' (did you mean 'Pendulum-v1'?)"),
    ):
        code, _, err = run(capsys, "train", world, *TRAIN[2:], "--steps", 9, "--folder", tmp_path / "x")
        assert (code, words in " ".join(err.split())) == (2, True)


def test_models_are_known_by_underscores_as_elsewhere(capsys, tmp_path):
    line = ["train", "four_rooms", "--backend", "soft-q-learning", "--steps", 64, "--folder", tmp_path / "x", "--json"]
    code, out, _ = run(capsys, *line, "--discount", 0.9)
    assert (code, json.loads(out)["steps"]) == (0, 64)


@pytest.mark.parametrize(
    ("words", "before"),
    [
        ([*TRAIN, "--steps", 9, "--folder", ""], "--folder"),
        (["compare", "bridge", "--folder="], "--folder"),
        (["resume", ""], "resume"),
        (["draw", "bridge", "--out", "", "--what", "map"], "--out"),
        (["", "bridge"], "cai"),
    ],
)
def test_an_empty_argument_is_no_folder(capsys, tmp_path, monkeypatch, words, before):
    """A variable of the shell that was never set; as a path it would be the working directory."""
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert err == f"error: the argument after {before} is empty; is it a variable of the shell that has no value?\n"
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_is_kept_and_ends_with_130(capsys, tmp_path, monkeypatch):
    offer = Checkpoints.offer

    def interrupted(self, state):
        offer(self, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "offer", interrupted)
    folder = tmp_path / "run"
    code, out, err = run(capsys, "train", "bridge", "--backend", "soft-q-learning", "--steps", 9600, "--folder", folder)
    assert code == 130
    assert "interrupted after 4096 steps" in err + out or "4,096 of 9,600 transitions" in err
    monkeypatch.undo()
    code, out, _ = run(capsys, "resume", folder, "--json")
    assert code == 0
    assert json.loads(out)["deterministic_return"] is None
    assert json.loads(out)["elbo"] < 0 or json.loads(out)["elbo"] >= 0
