"""Estimates come back from files, pickles and copies as they went, and answer what they are asked; code is lost."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from adversarial_oracle import random_world
from inverse_worlds import one_choice
from networks import draw_trips, town

import cai
from cai.inference.core.status import NotKnown
from cai.inverse import ContinuousDemonstrations, Demonstrations, RouteNetwork, airl, bootstrap, fit
from cai.models import MDP, ModuleReward, QuadraticReward, TableReward, TrajectoryModel, double_integrator, pendulum
from cai.models.common import storage

TOWN = ["minutes", "left", "u_turn"]


def on_a_network(keys=str):
    """A fit to trips of persons, one of whom was not on the network; links are called by `keys` of their names."""
    network = town()
    network = RouteNetwork(
        network.links.assign(link=network.links["link"].map(keys)),
        network.turns.assign(**{column: network.turns[column].map(keys) for column in ("from", "to")}),
        network.exits.assign(link=network.exits["link"].map(keys)),
    )
    trips = draw_trips(town(), TOWN, [-1.5, -0.5, -2.0], 40, seed=1)
    trips = trips.assign(link=trips["link"].map(keys), person=trips["trip"].map(lambda trip: f"p{int(trip) % 9}"))
    lost = pd.DataFrame({"trip": [99], "position": [0], "link": ["nowhere"], "destination": [trips["destination"][0]]})
    found = fit(network, pd.concat([trips, lost]), features=TOWN, covariance="sandwich", drop="report")
    return found, trips


def of_a_model():
    """Beside what is learned there is a reward of Python code."""
    model, shown = one_choice([2, 3, 5, 6], persons=["a", "a", "b", "c"], weights=[1.0, 2.0, 1.0, 0.5])
    model = model.replace(reward=model.reward + (lambda s, a, s2, t: torch.where(a == 0, 0.3 * t, 0.0)))
    return fit(model, shown, covariance="cluster"), shown


def of_a_table():
    chances = np.random.default_rng(0).dirichlet(np.ones(3), size=(3, 2))
    table = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    reward = TableReward(table) + TableReward(torch.full((3, 2), 0.2, dtype=torch.float64))
    model = TrajectoryModel(MDP(chances, np.ones(3) / 3), reward, horizon=np.inf, discount=0.8)
    shown = Demonstrations.from_policy(cai.infer(model, "variational"), model, 20, max_steps=20)
    return fit(model, shown), shown


def of_a_gaussian_model():
    model = double_integrator(horizon=4)
    shown = ContinuousDemonstrations(*cai.infer(model, "variational").sample(20, seed=0))
    return fit(model, shown, features={"effort": QuadraticReward(R=np.eye(model.action_dim))}), shown


def of_a_module():
    module = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    model, shown = one_choice([2, 3, 5, 6])
    model = model.replace(reward=ModuleReward(module, torch.tensor([[[0.0], [1.0]]], dtype=torch.float64)))
    return fit(model, shown), shown


def swing(s, a, t):
    return -0.25 * (1 - torch.cos(s[..., 0])) - 0.0025 * s[..., 1].square()


def effort(s, a, t):
    return -0.0025 * a.square().sum(-1)


def of_a_continuous_model():
    model = pendulum(horizon=3, temperature=1e-2).replace(initial=torch.tensor([0.2, 0.0], dtype=torch.float64))
    shown = ContinuousDemonstrations(*cai.infer(model, "ilqr").sample(2, seed=0))
    return fit(model.replace(reward=swing), shown, features={"effort": effort}), shown


MAKERS = {
    "network": on_a_network,
    "network of tuples": lambda: on_a_network(lambda key: ("street", str(key))),
    "model": of_a_model,
    "table": of_a_table,
    "gaussian": of_a_gaussian_model,
    "module": of_a_module,
    "continuous": of_a_continuous_model,
}
MADE = {}


def made(name):
    if name not in MADE:
        MADE[name] = MAKERS[name]()
    return MADE[name]


def same(one, other):
    assert type(one) is type(other)
    assert one.to_json() == other.to_json()
    assert one.summary() == other.summary()
    pd.testing.assert_frame_equal(one.to_frame(), other.to_frame(), check_index_type=False)
    assert torch.equal(one.scores.nan_to_num(), other.scores.nan_to_num())
    assert str(one.dropped) == str(other.dropped)
    pd.testing.assert_frame_equal(one.null_space(), other.null_space())


@pytest.mark.parametrize("name", MAKERS)
def test_pickled_and_copied_it_is_the_same(name):
    estimate, shown = made(name)
    for other in (pickle.loads(pickle.dumps(estimate)), copy.deepcopy(estimate)):
        same(other, estimate)
        assert torch.equal(other.log_prob(shown), estimate.log_prob(shown))


@pytest.mark.parametrize("name", MAKERS)
def test_saved_and_loaded_it_is_the_same(name, tmp_path):
    estimate, shown = made(name)
    path = estimate.save(tmp_path / "estimate")
    loaded = cai.load(path)
    same(loaded, estimate)
    if name in ("module", "continuous"):
        for ask in (lambda: loaded.log_prob(shown), loaded.model, lambda: loaded.transfer(None)):
            with pytest.raises(NotKnown, match="functions or modules in it, and stayed behind when it was saved; fit"):
                ask()
    else:
        assert torch.equal(loaded.log_prob(shown), estimate.log_prob(shown))
        assert loaded.save(tmp_path / "again").read_bytes() == path.read_bytes()


def test_files_name_the_package_that_reads_them():
    """What files hold of demonstrations, networks and fits has kinds of a first word that leads to `cai.inverse`."""
    own = ("cai.inverse.", "cai.models.demonstrations.")
    kinds = [kind for kind, known in storage._BY_NAME.items() if known.cls.__module__.startswith(own)]
    assert len(kinds) > 10
    assert {storage._HOMES[kind.partition("-")[0]] for kind in kinds} == {"cai.inverse"}


def test_a_new_process_reads_files_without_being_told_what_they_hold(tmp_path):
    path = made("network")[0].save(tmp_path / "estimate")
    code = f"import cai; est = cai.load({str(path)!r}); print(type(est).__module__, est.status.label)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cai.inverse.estimation.estimate", "success"]


def test_networks_answer_as_before(tmp_path):
    estimate, shown = made("network")
    loaded = cai.load(estimate.save(tmp_path / "estimate"))
    assert loaded.sample(5, seed=3).equals(estimate.sample(5, seed=3))
    prefix = shown["link"][shown["trip"] == shown["trip"][0]].tolist()[:2]
    pd.testing.assert_series_equal(cai.inverse.destinations(loaded, prefix), cai.inverse.destinations(estimate, prefix))
    again = fit(loaded.problem.network, loaded.problem.trips, features=TOWN, covariance="sandwich")
    assert again.coefficients.equals(estimate.coefficients)


def test_what_is_made_of_estimates_travels(tmp_path):
    estimate, shown = made("model")
    boot = bootstrap(estimate.problem.base_model, shown, 4, covariance="cluster")
    for other in (cai.load(boot.save(tmp_path / "boot")), pickle.loads(pickle.dumps(boot))):
        assert other.to_frame().equals(boot.to_frame())
        assert (other.statuses, other.by, other.seed) == (boot.statuses, boot.by, boot.seed)
    moved = estimate.transfer(estimate.model())
    assert cai.load(moved.save(tmp_path / "moved")).change == moved.change
    test = estimate.wald("second")
    assert pickle.loads(pickle.dumps(test)) == test
    rows = cai.load(shown.save(tmp_path / "shown"))
    assert torch.equal(rows.states, shown.states)
    assert rows.persons == shown.persons


def test_adversarial_estimates_travel(tmp_path):
    world = random_world(0)
    estimate = airl(world.model, world.shown(np.exp(world.solved()[1])), learner="variational")
    for other in (cai.load(estimate.save(tmp_path / "airl")), pickle.loads(pickle.dumps(estimate))):
        assert torch.equal(other.reward.g, estimate.reward.g)
        assert other.summary() == estimate.summary()
        assert torch.equal(other.policy.action_probs, estimate.policy.action_probs)
