"""Policies whose states and actions have the model's names in another order."""

import math

import numpy as np
import pytest

from cai import MDP, Policy, TrajectoryModel, evaluate, extract_policy, infer
from cai.evaluation import evaluate_belief_policy
from cai.models import ObservationModel
from cai.policies.belief import BeliefPolicy

STATES, ACTIONS = ("a", "b", "c"), ("left", "stay", "right", "jump")
ORDER, TURNED = [2, 0, 1], [3, 1, 0, 2]


def pair(horizon, discount=1.0, temperature=1.0):
    """One problem twice, its states and actions in two orders."""
    rng = np.random.default_rng(3)
    P, R, start = rng.dirichlet(np.ones(3), (3, 4)), rng.normal(size=(3, 4)), rng.dirichlet(np.ones(3))
    found = []
    for states, actions in ((range(3), range(4)), (ORDER, TURNED)):
        states, actions = list(states), list(actions)
        mdp = MDP(
            P[np.ix_(states, actions, states)],
            initial=start[states],
            state_names=[STATES[s] for s in states],
            action_names=[ACTIONS[a] for a in actions],
        )
        reward = R[np.ix_(states, actions)]
        found.append(TrajectoryModel(mdp, reward, horizon, temperature=temperature, discount=discount))
    return found


@pytest.mark.parametrize(("horizon", "discount"), [(4, 1.0), (math.inf, 0.9)])
@pytest.mark.parametrize("kind", ["stochastic", "greedy"])
def test_a_policy_is_put_in_the_order_of_the_model_by_names(kind, horizon, discount):
    model, turned = pair(horizon, discount)
    there = extract_policy(infer(turned, "variational"), kind=kind)
    here = extract_policy(infer(model, "variational"), kind=kind)
    own, other = evaluate(here, model, num_rollouts=10), evaluate(there, model, num_rollouts=10)
    assert other.expected_return == pytest.approx(own.expected_return, rel=1e-12)
    assert other.entropy == pytest.approx(own.entropy, rel=1e-12)
    np.testing.assert_allclose(other.occupancy, own.occupancy, rtol=1e-10)


def test_a_name_of_another_model_is_refused():
    model, _ = pair(3)
    policy = Policy(np.full((3, 4), 0.25), state_names=("a", "b", "d"), action_names=ACTIONS)
    with pytest.raises(ValueError, match=r"number 2 is 'd' there and 'c' here; it was made for another model"):
        evaluate(policy, model)


def test_a_belief_policy_in_another_order_is_refused():
    model, turned = pair(3)
    seen = ObservationModel(np.eye(3))
    agent = BeliefPolicy(extract_policy(infer(turned, "variational")), turned.mdp, seen)
    with pytest.raises(ValueError, match=r"number 0 is 'c' there and 'a' here; they are in another order"):
        evaluate_belief_policy(agent, model, num_rollouts=4)
