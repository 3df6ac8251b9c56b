"""Likelihood ratios know what both fits were given, wherever the estimates have been meanwhile."""

import copy
import pickle

import numpy as np
import pytest
import torch
from networks import draw_trips, town

import cai
from cai.inverse import ContinuousDemonstrations, Demonstrations, RouteNetwork, fit
from cai.models import MDP, LinearReward, QuadraticReward, TrajectoryModel, double_integrator

TOWN = ["minutes", "left", "u_turn"]
TRUTH = [-1.5, -0.5, -2.0]


def trips(network, seed=0):
    return draw_trips(network, TOWN, TRUTH, 60, seed=seed)


def travelled(estimate, folder):
    """The estimate and what comes back of it from a pickle, a copy and a file."""
    yield estimate
    yield pickle.loads(pickle.dumps(estimate))
    yield copy.deepcopy(estimate)
    yield cai.load(estimate.save(folder / "estimate"))


def test_other_trips_of_equal_counts_are_known(tmp_path):
    network = town()
    shown = trips(network)
    other = shown.copy()
    first = other["trip"] == 0  # the way of another trip between other places
    same_length = [n for n, part in shown.groupby("trip") if len(part) == first.sum() and n]
    model = shown[shown["trip"] == same_length[0]]
    other.loc[first, ["link", "destination"]] = model[["link", "destination"]].to_numpy()
    whole, part = fit(network, shown, features=TOWN), fit(network, shown, features=TOWN, fixed={"left": 0})
    apart = fit(network, other, features=TOWN)
    assert (whole.num_demonstrations, whole.num_choices) == (apart.num_demonstrations, apart.num_choices)
    want = whole.likelihood_ratio(part)
    for one in travelled(whole, tmp_path):
        assert one.likelihood_ratio(part) == part.likelihood_ratio(one) == want
    for one in travelled(apart, tmp_path):
        with pytest.raises(ValueError, match="not to the same demonstrations, though sizes agree"):
            one.likelihood_ratio(part)
    weighed = fit(network, shown.assign(weight=1 + (shown["trip"] == 0)), features=TOWN)
    with pytest.raises(ValueError, match="same demonstrations"):
        weighed.likelihood_ratio(part)


def test_other_networks_are_known():
    network = town()
    shown = trips(network)
    part = fit(network, shown, features=TOWN, fixed={"left": 0})
    slower = RouteNetwork(network.links.assign(minutes=network.links["minutes"] * 1.1), network.turns, network.exits)
    with pytest.raises(ValueError, match="no special case of the other: 'minutes' weighs other numbers there"):
        fit(slower, shown, features=TOWN).likelihood_ratio(part)
    absorbing = RouteNetwork(network.links, network.turns, network.exits, ends="absorb")
    straight = shown.groupby("trip").filter(lambda part: _passes_once(network, part))
    mine, its = (fit(one, straight, features=TOWN, throw=False) for one in (network, absorbing))
    small = fit(absorbing, straight, features=TOWN, fixed={"left": 0})
    assert its.likelihood_ratio(small).degrees == 1
    with pytest.raises(ValueError, match=r"to the same network|compare fits to the same demonstrations"):
        mine.likelihood_ratio(small)


def _passes_once(network, part):
    """Whether a trip meets its destination at its end alone."""
    leads = dict(zip(network.exits["link"], network.exits["destination"], strict=True))
    links = part.sort_values("position")["link"].tolist()
    return all(leads[link] != part["destination"].iloc[0] for link in links[:-1])


def test_only_special_cases_are_compared():
    network = town()
    shown = trips(network)

    def of(*names, **fixed):
        return fit(network, shown, features=list(names), fixed=fixed)

    whole = of(*TOWN)
    for part, degrees in (
        (of("minutes"), 2),
        (of("minutes", "left"), 1),
        (of(*TOWN, left=0.0), 1),
        (of(*TOWN, left=-0.4), 1),
        (of("u_turn", "minutes"), 1),
    ):
        found = whole.likelihood_ratio(part)
        assert found.degrees == degrees
        assert found.statistic == pytest.approx(2 * (whole.log_likelihood - part.log_likelihood))
        assert found.statistic > 0
    held = of(*TOWN, left=-0.4)
    assert held.likelihood_ratio(of(*TOWN, left=-0.4, u_turn=-1.0)).degrees == 1
    for one, other, said in (
        (
            of("minutes", "left"),
            of("minutes", "u_turn", "left", minutes=-1.5, left=0.0),
            "'u_turn' is free in it, and 0",
        ),
        (held, of("minutes"), "'left' is 0 in it, and -0.4 in the other"),
        (held, of(*TOWN, left=-0.5, u_turn=0.0), "'left' is -0.5 in it, and -0.4 in the other"),
        (of("minutes", "u_turn"), of("minutes", "left", left=-0.4), "'left' is -0.4 in it, and 0 in the other"),
    ):
        for first, second in ((one, other), (other, one)):
            with pytest.raises(ValueError, match="no special case of the other") as refused:
                first.likelihood_ratio(second)
            assert said in str(refused.value)
    with pytest.raises(ValueError, match="both fits have 2 free coefficients"):
        of("minutes", "left").likelihood_ratio(of("minutes", "u_turn"))


def _chain(features, discount=0.9, chances=None):
    moves = np.random.default_rng(0).dirichlet(np.ones(4), size=(4, 2)) if chances is None else chances
    names = [f"f{i}" for i in range(features.shape[-1])]
    reward = LinearReward(features, np.zeros(len(names)), names=names)
    return TrajectoryModel(MDP(moves, np.ones(4) / 4), reward, horizon=6, discount=discount)


def test_models_and_their_demonstrations_are_known(tmp_path):
    rng = np.random.default_rng(1)
    features = rng.normal(size=(4, 2, 2))
    model = _chain(features)
    shown, other = (Demonstrations.from_policy(cai.infer(model, "variational"), model, 40, seed) for seed in (0, 1))
    part = fit(model, shown, fixed={"f1": 0.0})
    for whole in travelled(fit(model, shown), tmp_path):
        assert whole.likelihood_ratio(part).degrees == 1
    assert fit(model, shown).likelihood_ratio(fit(_chain(features[..., :1]), shown)).degrees == 1
    for changed, said in (
        (fit(model, other), "same demonstrations"),
        (fit(_chain(features, discount=0.8), shown), "same model"),
        (fit(model.replace(temperature=2.0), shown), "same model"),
        (fit(model.replace(reward=model.reward + np.ones((4, 2))), shown), "same model"),
        (fit(_chain(features, chances=rng.dirichlet(np.ones(4), size=(4, 2))), shown), "same model"),
        (fit(_chain(features * [2.0, 1.0]), shown), "'f0' weighs other numbers"),
    ):
        with pytest.raises(ValueError, match=said):
            changed.likelihood_ratio(part)
    plain = _chain(features, discount=1.0)
    with pytest.raises(ValueError, match="one fit has objective 'path'"):
        fit(plain, shown, objective="path").likelihood_ratio(fit(plain, shown, fixed={"f1": 0.0}))


def test_continuous_models_are_known(tmp_path):
    model = double_integrator(horizon=4)
    shown, other = (ContinuousDemonstrations(*cai.infer(model, "variational").sample(20, seed=s)) for s in (0, 1))
    size = model.action_dim
    features = {"effort": QuadraticReward(R=np.eye(size)), "place": QuadraticReward(Q=np.eye(model.state_dim))}
    whole = fit(model, shown, features=features)
    part = fit(model, shown, features=features, fixed={"place": 0.0})
    for one in travelled(whole, tmp_path):
        assert one.likelihood_ratio(part).degrees == 1
    assert whole.likelihood_ratio(fit(model, shown, features={"effort": features["effort"]})).degrees == 1
    with pytest.raises(ValueError, match="same demonstrations"):
        fit(model, other, features=features).likelihood_ratio(part)
    with pytest.raises(ValueError, match="same model"):
        fit(model.replace(temperature=2.0), shown, features=features).likelihood_ratio(part)
    changed = features | {"effort": QuadraticReward(R=2 * np.eye(size))}
    with pytest.raises(ValueError, match="'effort' weighs other numbers"):
        fit(model, shown, features=changed).likelihood_ratio(part)


def test_functions_are_known_by_what_they_compute():
    model = cai.models.pendulum(horizon=3, temperature=1e-2).replace(initial=torch.tensor([0.2, 0.0]).double())
    shown = ContinuousDemonstrations(*cai.infer(model, "ilqr").sample(3, seed=0))

    def features(factor):
        return {
            "effort": lambda s, a, t: -0.0025 * a.square().sum(-1),
            "swing": lambda s, a, t: -factor * (1 - torch.cos(s[..., 0])),
        }

    plain = model.replace(reward=lambda s, a, t: -0.0025 * s[..., 1].square())
    part = fit(plain, shown, features=features(0.25), fixed={"swing": 1.0}, throw=False)
    whole = fit(plain, shown, features=features(0.25), throw=False)
    apart = fit(plain, shown, features=features(0.5), throw=False)
    assert whole.data == fit(plain, shown, features=features(0.25), throw=False).data
    assert whole.data.features["swing"] != apart.data.features["swing"]
    assert whole.data.world == apart.data.world == part.data.world
