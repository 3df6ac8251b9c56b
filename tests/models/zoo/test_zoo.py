"""The zoo: every entry has a source, takes its options, and is answered by every backend that accepts it."""

import inspect
import math
import re

import numpy as np
import pytest
import torch
from oracle import Problem, exact, fixed

import cai
from cai.inference import Status, available_backends
from cai.models import available_models, build_model
from cai.models.zoo.registry import state_places

# Options with which a problem is tiny, and still has all its parts.
TINY = {
    "ladder": {"rungs": 2, "horizon": 3},
    "bridge": {"text": "S=G\n.~.", "horizon": 3},
    "gridworld": {"text": "S~\n.G", "horizon": 3},
    "windy": {"text": "..\nSG", "wind": (0, 1), "slip": 0.5, "horizon": 3},
    "cliff": {"text": "..\nS~", "horizon": 3},
    "four-rooms": {"text": "S.\n#G", "horizon": 3},
    "maze": {"text": "S.\n#G", "slip": 0.2, "horizon": 3},
    "river-swim": {"num_states": 3, "horizon": 3},
    "chain": {"num_states": 3, "horizon": 3},
    "double-chain": {"length": 2, "slip": 0.1, "horizon": 3},
    "small-roads": {"horizon": 3},
    "inventory": {"capacity": 2, "horizon": 3},
    "machine": {"num_states": 3, "horizon": 3},
    "tiger": {"horizon": 3},
    "kitchen": {"text": "KSF", "slip": 0.1, "horizon": 3},
    "random-mdp": {"num_states": 4, "num_terminal": 1, "outcome_rewards": True, "horizon": 3},
    "FrozenLake-v1": {"horizon": 3},
    "CliffWalking-v1": {"horizon": 3},
    "Taxi-v4": {"horizon": 1},
}
NAMES = list(available_models())
TABLES = [name for name, entry in available_models().items() if not entry.continuous]
# A status besides success, and why: these iterations settle slowly where actions are nearly alike in units of the
# temperature, and report it.
SLOW = {
    ("river-swim", "em"),
    ("river-swim", "posterior-policy-iteration"),
    ("random-mdp", "posterior-policy-iteration"),
}
# A learner succeeds when it has used its budget with finite numbers; what it has learned is tested with the learners.
LEARNERS = ("soft-q-learning", "soft-actor-critic", "policy-gradient", "path-consistency")
BUDGET = 4096  # transitions


def tiny(name, **options):
    return build_model(name, **(TINY.get(name, {}) | options))


def as_problem(model):
    """The model as the plain lists of the oracle."""
    mdp = model.mdp
    following = mdp.successors().expand_as(mdp.probabilities)
    outcomes = []
    for s in range(mdp.num_states):
        rows = []
        for a in range(mdp.num_actions):
            row = []
            for k in range(mdp.num_outcomes):
                paid = [float(model.reward_table(t).expand_as(following)[s, a, k]) for t in range(model.horizon)]
                row.append((float(mdp.probabilities[s, a, k]), int(following[s, a, k]), paid))
            rows.append(row)
        outcomes.append(rows)
    return Problem(
        initial=mdp.initial.tolist(),
        outcomes=outcomes,
        prior=model.action_prior.tolist(),
        terminal=mdp.terminal.tolist(),
        horizon=model.horizon,
        temperature=model.temperature,
        discount=model.discount,
        model=model,
    )


def test_the_names_of_the_zoo():
    wanted = """lottery ladder bridge gridworld windy cliff four-rooms maze river-swim chain double-chain three-paths
    small-roads inventory machine tiger kitchen random-mdp FrozenLake-v1 CliffWalking-v1 Taxi-v4
    double-integrator lqg pendulum cart-pole dubins multi-goal"""
    assert set(wanted.split()) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_says_what_it_is_and_where_it_is_from(name):
    entry = available_models()[name]
    text = inspect.getdoc(entry.build)
    assert len(entry.summary) <= 80
    assert len(text.splitlines()) > 3
    assert name == "gridworld" or re.search(r"(19|20)\d\d", text)
    for option in entry.options:
        assert "-v" in name or f"{option}:" in text
    assert {"horizon", "temperature", "discount"} <= set(entry.options)
    if "-v" not in name:
        assert getattr(cai.models, name.replace("-", "_")) is entry.build


@pytest.mark.parametrize("name", TABLES)
def test_every_entry_takes_its_options(name):
    model = build_model(name)
    assert model.name == name
    assert model.is_finite
    assert model.mdp.available[:, 0].numel() == model.mdp.num_states
    changed = tiny(name, horizon=2, temperature=2.5, discount=0.9)
    assert (changed.horizon, changed.temperature, changed.discount) == (2, 2.5, 0.9)
    assert not build_model(name, horizon=math.inf, discount=0.9).is_finite
    if "slip" in available_models()[name].options:
        with pytest.raises(ValueError, match=r"slip is 1\.5; it is a probability"):
            build_model(name, slip=1.5)


def test_underscores_are_hyphens():
    assert build_model("river_swim", horizon=2).name == "river-swim"
    with pytest.raises(ValueError, match="no model is called 'river_dance'"):
        build_model("river_dance")


@pytest.mark.parametrize("name", TABLES)
def test_every_backend_that_accepts_it(name):
    model = tiny(name)
    answered = []
    for key, cls in available_backends().items():
        backend = cls(steps=BUDGET) if key in LEARNERS else cls()
        try:
            backend.supports(model)
        except ValueError:
            continue
        answered.append(key)
        posterior = backend.run(model, seed=0)
        wanted = {Status.SUCCESS, Status.NOT_CONVERGED} if (name, key) in SLOW else {Status.SUCCESS}
        wanted |= {Status.FEW_PARTICLES} if key == "importance" else set()
        assert posterior.status in wanted, (key, posterior.details)
        for number in (posterior.log_evidence, posterior.elbo, posterior.believed_return, posterior.luck):
            assert number is None or math.isfinite(float(number)), key
        probs = posterior.action_probs
        assert probs is None or bool(torch.isfinite(probs).all()), key
        outcome = cai.evaluate(cai.extract_policy(posterior), model, num_rollouts=10) if probs is not None else None
        assert outcome is None or math.isfinite(float(outcome.expected_return)), key
    assert {"exact", "variational", "optimistic", "risk", "max-product", "value-iteration", "smc"} <= set(answered)


@pytest.mark.parametrize("name", [name for name in TABLES if name not in ("Taxi-v4", "small-roads")])
def test_against_every_trajectory(name):
    """Sum-product and fixed dynamics against brute force; rounding grows with rewards over the temperature."""
    model = tiny(name)
    problem = as_problem(model)
    truth = exact(problem)
    posterior = cai.infer(model, "exact")
    close = {"rel": 1e-9, "abs": 1e-9}
    assert float(posterior.log_evidence) == pytest.approx(truth.log_evidence, **close)
    assert float(posterior.believed_return) == pytest.approx(truth.believed_return, **close)
    assert float(posterior.luck) == pytest.approx(truth.luck, **close)
    np.testing.assert_allclose(posterior.state_marginals.numpy(), truth.marginals, atol=1e-9)
    for (t, s), row in truth.policy.items():
        np.testing.assert_allclose(posterior.action_probs[t, s].numpy(), row, atol=1e-9)
    values = [fixed(problem, s, 0)[0] for s in range(problem.num_states)]
    bound = math.fsum(chance * value for chance, value in zip(problem.initial, values, strict=True) if chance)
    assert float(cai.infer(model, "variational").elbo) == pytest.approx(bound, **close)


@pytest.mark.parametrize("name", TABLES)
def test_in_float32(name):
    model = tiny(name)
    wide, narrow = (cai.infer(m, "exact").log_evidence for m in (model, model.to(dtype=torch.float32)))
    assert narrow.dtype == torch.float32
    assert float(narrow) == pytest.approx(float(wide), rel=1e-4, abs=1e-4)


def test_what_is_seen_of_hidden_states():
    for name, entry in available_models().items():
        if entry.observations is not None:
            model, seen = entry.build(), entry.observations()
            cai.inference.filter_states(model, seen, [None], [])
            assert seen.probabilities.shape[-2] == model.mdp.num_states, name


def test_places_are_of_the_zoo_only():
    town = build_model("small-roads")
    assert len(state_places(town)) == town.mdp.num_states
    assert state_places(build_model("chain")) is None
    assert state_places(build_model("chain").replace(name="small-roads")) is None
