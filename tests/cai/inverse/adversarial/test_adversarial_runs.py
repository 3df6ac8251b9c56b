"""Runs of AIRL and GAIL that are stored: killed and gone on with, made longer, or refused."""

import json
import math
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from killed_runs import killed_while_collecting
from typer.testing import CliRunner

import cai
from cai.cli import app
from cai.inference import SoftQLearning
from cai.inference.core.storage import StorageError
from cai.inverse import AdversarialEstimate, FitError, FitStatus, airl, gail
from cai.inverse.adversarial import brain
from cai.models import environment_model
from cai.models.trajectory.model import TrajectoryModel

SMALL = "hidden_sizes=8,batch_size=16,warmup_steps=50,updates_per_step=0.3"
RUNS = {
    "airl in a box": (airl, "Pendulum-v1", f"soft-actor-critic:num_envs=2,{SMALL}", {"hidden_sizes": (8,)}),
    "gail of numbers": (gail, "CartPole-v1", f"soft-q-learning:num_envs=3,{SMALL}", {"recent": 70}),
    "states alone": (airl, "CartPole-v1", f"soft-actor-critic:{SMALL}", {"state_only": True, "hidden_sizes": ()}),
}


def world_of(name):
    return environment_model(name, discount=0.9, temperature=2.0)


def shown(name, number=230):
    rng = np.random.default_rng(0)
    if name == "Pendulum-v1":
        return [SimpleNamespace(obs=rng.normal(size=(number + 1, 3)), acts=rng.uniform(-2, 2, (number, 1)), terminal=0)]
    return [SimpleNamespace(obs=rng.normal(size=(number + 1, 4)), acts=rng.integers(2, size=number), terminal=True)]


def asked(run, folder=None, steps=699, **more):
    method, name, learner, options = RUNS[run]
    options = {"seed": 4, "throw": False, **options, **more}
    return method(world_of(name), shown(name), learner=f"{learner},steps={steps}", folder=folder, **options)


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def same(one, other):
    assert isinstance(other, AdversarialEstimate)
    assert torch.equal(one.reward.flat, other.reward.flat)
    for name, part in one.policy.parameters.items():
        assert torch.equal(part, other.policy.parameters[name]), name
    facts = ("method", "discriminator_loss", "divergence", "status", "warnings", "steps")
    assert [getattr(one, name) for name in facts] == [getattr(other, name) for name in facts]
    assert one.history.identical(other.history)


@pytest.mark.parametrize("run", RUNS)
def test_a_killed_run_goes_on_to_the_same_bits(run, tmp_path):
    """Files of the folder included; and whether a run is stored changes no bit of it."""
    whole = asked(run, tmp_path / "whole")
    same(whole, asked(run))
    cut = tmp_path / "cut"
    assert 190 < killed_while_collecting(lambda: asked(run, cut, checkpoint_every=200), cut) < 500
    same(whole, cai.resume(tmp_path / "cut", throw=False))
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    same(whole, cai.resume(tmp_path / "cut", throw=False))  # a run that has ended answers again


def test_a_run_that_was_interrupted_or_cut_short_goes_on(tmp_path, monkeypatch):
    update, count = brain.AdversarialBrain.update, []

    def pressed(self, batch, generator):
        count.append(1)
        if len(count) == 40:
            os.kill(os.getpid(), signal.SIGINT)
        return update(self, batch, generator)

    run = "gail of numbers"
    with monkeypatch.context() as patch:
        patch.setattr(brain.AdversarialBrain, "update", pressed)
        short = asked(run, tmp_path / "cut")
    assert short.status is FitStatus.NOT_CONVERGED
    assert short.steps < 300
    assert "of 699 transitions" in short.warnings[0]
    assert asked(run, tmp_path / "timed", max_seconds=1e-9).steps < 699
    whole = asked(run)
    for folder in ("cut", "timed"):
        same(whole, cai.resume(tmp_path / folder, throw=False))


@pytest.mark.parametrize("other", ["method", "demonstrations", "recent"])
def test_the_state_of_another_run_is_refused_though_it_would_fit(other, tmp_path):
    """Networks of the same shapes, by another method, from other demonstrations or with other options."""
    for name in ("own", "other"):
        changed = other if name == "other" else ""
        method = airl if changed == "method" else gail
        learner = f"soft-q-learning:steps=60,{SMALL}"
        options = {"learner": learner, "recent": 60 if changed == "recent" else 70, "throw": False}
        number = 229 if changed == "demonstrations" else 230
        method(world_of("CartPole-v1"), shown("CartPole-v1", number), folder=tmp_path / name, **options)
    for name in ("state.safetensors", "state.json"):
        (tmp_path / "other" / name).replace(tmp_path / "own" / name)
    with pytest.raises(StorageError, match="belongs to another run, of another backend, other options or another"):
        cai.resume(tmp_path / "own", steps=120)


def test_a_longer_run_is_the_one_that_was_long_from_the_start(tmp_path):
    asked("states alone", tmp_path / "run", steps=400)
    with pytest.raises(FitError, match="distinguishable") as failed:
        cai.resume(tmp_path / "run", steps=699)
    same(asked("states alone"), failed.value.estimate)


def test_a_world_made_by_a_function_is_given_again(tmp_path):
    import gymnasium

    def world():
        return environment_model(lambda: gymnasium.make("CartPole-v1"), discount=0.9, temperature=1.0)

    options = {"learner": f"soft-q-learning:steps=150,{SMALL}", "throw": False}
    whole = gail(world(), shown("CartPole-v1"), folder=tmp_path / "run", **options)
    with pytest.raises(ValueError, match=r"about a program \(or a reward, or an environment"):
        cai.resume(tmp_path / "run")
    same(whole, cai.resume(tmp_path / "run", world=world(), throw=False))


def test_the_command_line_goes_on_and_watches(tmp_path):
    asked("gail of numbers", tmp_path / "run", steps=400)
    told = CliRunner().invoke(app, ["resume", str(tmp_path / "run"), "--steps", "699", "--json"])
    assert told.exit_code == 1, told.output
    line = json.loads(told.stdout)
    whole = asked("gail of numbers")
    assert (line["steps"], line["backend"], line["method"]) == (699, "soft-q-learning", "gail")
    assert line["status"] == "distinguishable"
    assert line["divergence"] == whole.divergence
    assert "told from the demonstrations" in told.stderr
    watched = CliRunner().invoke(app, ["watch", str(tmp_path / "run"), "--episodes", "2", "--json"])
    assert watched.exit_code == 0, watched.output
    assert json.loads(watched.stdout)["stochastic_return"]["episodes"] == 2


@pytest.mark.parametrize("run", ["airl in a box", "gail of numbers"])
@pytest.mark.parametrize("rate", ["1e30", "1e38"])
def test_a_run_that_leaves_the_floats_is_unstable_and_was_not_interrupted(run, rate, tmp_path):
    method, name, learner, options = RUNS[run]
    learner = f"{learner},learning_rate={rate},steps=699"
    est = method(world_of(name), shown(name), learner=learner, folder=tmp_path / "run", throw=False, **options)
    assert est.status is FitStatus.UNSTABLE
    assert "left the floats" in est.warnings[0]
    assert math.isnan(est.divergence)
    told = CliRunner().invoke(app, ["resume", str(tmp_path / "run"), "--json"])
    assert told.exit_code == 1, told.output
    line = json.loads(told.stdout)
    assert (line["status"], line["divergence"], line["stochastic_return"]) == ("unstable", None, None)
    assert "lower learning_rate" in told.stderr
    with pytest.raises(FitError, match="unstable: a loss or a value left the floats"):
        cai.resume(tmp_path / "run")


def test_a_run_of_uniform_steps_alone_has_no_loss(tmp_path):
    asked("gail of numbers", tmp_path / "run", steps=48)
    told = CliRunner().invoke(app, ["resume", str(tmp_path / "run"), "--json"])
    assert told.exit_code == 1, told.output
    assert json.loads(told.stdout)["discriminator_loss"] is None


def test_all_options_of_the_learner_count():
    """A flow acts where that is asked for, and networks of an earlier answer are the first ones."""
    world, demos = world_of("Pendulum-v1"), shown("Pendulum-v1")
    wide = environment_model(
        lambda: cai.models.environment(cai.models.multi_goal(horizon=4)), discount=0.9, temperature=1.0
    )
    rng = np.random.default_rng(1)
    moves = [SimpleNamespace(obs=rng.normal(size=(211, 3)), acts=rng.uniform(-1, 1, (210, 2)), terminal=True)]
    few = f"steps=60,{SMALL}"
    flow = gail(wide, moves, learner=f"soft-actor-critic:policy=flow,{few}", throw=False)
    plain = gail(wide, moves, learner=f"soft-actor-critic:{few}", throw=False)
    assert set(flow.policy.parameters) != set(plain.policy.parameters)
    first = cai.infer(world, "soft-actor-critic", steps=120, hidden_sizes=(8,), batch_size=16)
    begun = cai.inference.SoftActorCritic(steps=1, hidden_sizes=(8,), batch_size=16, warmup_steps=1, initial=first)
    est = gail(world, demos, learner=begun, throw=False)
    for name, part in first.policy().parameters.items():
        assert torch.equal(part, est.policy.parameters[name]), name


class Renamed(SoftQLearning):
    """A backend that no name leads to."""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learner": Renamed(steps=100)}, "a run of Renamed could not go on"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"learner": SoftQLearning(steps=100, network=torch.nn.Flatten())}, "network=, a module for images"),
        ({"learner": f"soft-q-learning:tensorboard=true,steps=100,{SMALL}", "folder": None}, "give folder="),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_what_could_not_go_on_is_refused(change, said, tmp_path):
    options = {"learner": f"soft-q-learning:steps=100,{SMALL}", "folder": tmp_path / "run"} | change
    with pytest.raises(ValueError, match=said):
        gail(world_of("CartPole-v1"), shown("CartPole-v1"), **options)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_taken_and_tables_are_refused(tmp_path):
    asked("gail of numbers", tmp_path / "run", steps=120)
    with pytest.raises(FileExistsError, match=r"holds a run already; cai.resume\("):
        asked("gail of numbers", tmp_path / "run", steps=120)
    mdp = cai.models.MDP([[[1.0]]], [1.0])
    model = TrajectoryModel(mdp, [0.0], horizon=2)
    for late in ({"folder": tmp_path / "tables"}, {"max_seconds": 2.0}):
        with pytest.raises(ValueError, match="without a run that could be stored"):
            airl(model, cai.inverse.Demonstrations([[0, 0, 0]], [[0, 0]]), learner="variational", **late)
    assert math.isfinite(airl(model, cai.inverse.Demonstrations([[0, 0, 0]], [[0, 0]]), learner="variational").steps)


def test_a_backend_that_no_name_leads_to_is_not_stored(tmp_path):
    """`resume` would make another class of it, and go on as that one."""
    with pytest.raises(ValueError, match="a run of Renamed could not go on"):
        cai.infer(world_of("CartPole-v1"), Renamed(steps=100), folder=tmp_path / "run")
