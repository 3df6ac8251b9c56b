"""Expected counts, Ziebart's algorithm 1, goals and label bias."""

import math

import numpy as np
import pytest
import torch
from oracle import exact, random_problem

import cai
from cai.inverse import Demonstrations, expected_counts, goals, label_bias
from cai.inverse.tabular.problem import ModelProblem
from cai.models import LinearReward, StepCost, TrajectoryModel, bridge, gridworld, kitchen, three_paths


@pytest.mark.parametrize("seed", range(8))
def test_counts_are_those_of_all_paths(seed):
    problem = random_problem(seed, discount=1.0, forbidden=False)
    for start in range(problem.num_states):
        if problem.terminal[start]:
            continue
        problem.initial = [float(s == start) for s in range(problem.num_states)]
        told, found = exact(problem), expected_counts(problem.model, [start, start])
        for t in range(problem.horizon):
            for s in range(problem.num_states):
                policy = told.policy.get((t, s))
                want = np.zeros(problem.num_actions)
                if policy is not None and not problem.terminal[s]:
                    want = 2 * told.marginals[t, s] * np.array(policy)
                np.testing.assert_allclose(found[t, s], want, atol=1e-10)


def test_moments_are_discounted_visits_of_the_best_policy():
    model = bridge(discount=0.9, horizon=5)
    answer = cai.infer(model, "variational")
    start = int(model.mdp.initial.argmax())
    found = expected_counts(model, start, objective="moments")
    want = answer.state_marginals[:5, :, None] * answer.action_probs
    want[:, model.mdp.terminal] = 0.0
    np.testing.assert_allclose(found, want, atol=1e-12)
    endless = expected_counts(model.replace(horizon=math.inf), [start], objective="moments")
    assert endless.shape == (1, *want.shape[1:])


@pytest.mark.parametrize(("slip", "least", "most"), [(0.0, 0.0, 1e-12), (0.3, 0.05, math.inf)])
def test_algorithm_1_is_right_where_dynamics_are_certain(slip, least, most):
    model = gridworld("S..\n.#.\n..G", slip=slip, horizon=6)
    start = int(model.mdp.initial.argmax())
    printed = expected_counts(model, [start], algorithm="ziebart-2008")
    apart = float((printed - expected_counts(model, [start])).abs().max())
    assert least <= apart <= most


def test_observed_minus_expected_is_the_gradient():
    rng = np.random.default_rng(0)
    model = gridworld("S..\n.#.\n..G", slip=0.2, horizon=6)
    features = rng.normal(size=(model.mdp.num_states, 4, 2))
    features[model.mdp.terminal] = 0.0
    model = model.replace(reward=LinearReward(features, [0.3, -0.2]) + StepCost(0.5), temperature=1.7)
    drawn = Demonstrations.from_policy(cai.infer(model, "variational"), model, 5, 0)
    for objective in ("moments", "path"):
        asked = ModelProblem(model, drawn, objective)
        counts = asked.counts(asked.start)
        expected = expected_counts(model, drawn.states[:, 0], objective=objective)
        np.testing.assert_allclose(counts["expected"].sum(), expected.sum(), rtol=1e-12)
        observed = asked.steps.counts(1, model.mdp.num_states, 4)[0]
        slope = torch.einsum("sa,saf->f", observed - expected.sum(0), torch.as_tensor(features)) / 1.7
        np.testing.assert_allclose(asked.evaluate(asked.start)[1], slope, rtol=1e-10, atol=1e-12)


def test_counts_say_what_is_wrong():
    with pytest.raises(ValueError, match="explicit absorbing state"):
        expected_counts(bridge(discount=0.9), [0])
    with pytest.raises(ValueError, match="no difference of counts"):
        expected_counts(bridge(), [0], objective="likelihood")
    with pytest.raises(ValueError, match="first states, 0 to"):
        expected_counts(bridge(), [99])
    with pytest.raises(ValueError, match="algorithm is"):
        expected_counts(bridge(), [0], algorithm="other")


def test_goals_are_products_of_policies():
    models = [kitchen(wants=name) for name in ("kettle", "fridge")]
    policies = [cai.infer(model, "variational").action_probs for model in models]
    states, actions = [11, 6, 5, 4], [0, 3, 3]
    found = goals(models, states, actions, prior=[0.2, 0.8])
    weights = np.array([0.2, 0.8])
    np.testing.assert_allclose(found[0], weights)
    for t in range(3):
        weights = weights * [float(policy[t, states[t], actions[t]]) for policy in policies]
        np.testing.assert_allclose(found[t + 1], weights / weights.sum(), rtol=1e-12)
    assert found.shape == (4, 2)
    np.testing.assert_allclose(goals(models, states[:3], actions, prior=[0.2, 0.8]), found)
    assert float(found[-1, 0]) > 0.99


@pytest.mark.parametrize("states", [[11], []])
def test_before_the_first_step_the_prior_is_all_that_is_known(states):
    """Online, nobody has acted yet: lists without entries are no floats."""
    models = [kitchen(wants=name) for name in ("kettle", "fridge")]
    np.testing.assert_allclose(goals(models, states, [], prior=[0.25, 0.75]), [[0.25, 0.75]], rtol=1e-15)
    with pytest.raises(ValueError, match="states_1 is empty"):
        expected_counts(models[0], [])


def test_evidence_of_a_reward_is_none_for_a_goal():
    """Who could earn more is not more probable for that: a constant for every step changes nothing."""
    models = [kitchen(wants=name) for name in ("kettle", "fridge")]
    richer = [models[0], models[1].replace(reward=models[1].reward + StepCost.paying(5.0), temperature=1.0)]
    first = [goals(pair, [11], [0])[-1] for pair in (models, richer)]
    assert float(first[0][0]) == pytest.approx(0.5, abs=1e-12)
    assert float(cai.infer(richer[1], "variational").elbo) > float(cai.infer(models[1], "variational").elbo) + 5
    assert 0.2 < float(first[1][0]) < 0.8


def test_who_passes_the_kettle_does_not_want_it():
    models = [kitchen(wants=name) for name in ("kettle", "fridge")]
    names = models[0].mdp.state_names
    states = [names.index(name) for name in ("(1,0)", "kettle(0,0)", "(0,1)")]
    found = goals(models, states, [0, 1])
    assert float(found[1, 0]) > 0.9
    assert float(found[2, 0]) == 0.0


def test_goals_say_what_is_wrong():
    models = [kitchen(wants=name) for name in ("kettle", "fridge")]
    with pytest.raises(ValueError, match="prior is"):
        goals(models, [11], [0], prior=[0.5, 0.6])
    with pytest.raises(ValueError, match="models\\[1\\] has"):
        goals([models[0], bridge()], [11], [0])
    with pytest.raises(ValueError, match="has 8 steps"):
        goals(models, [11] * 10, [0] * 9)
    with pytest.raises(ValueError, match="expected 0 to"):
        goals(models, [99], [0])
    with pytest.raises(ValueError, match="at least one"):
        goals([], [0], [0])


def test_label_bias_on_the_three_paths():
    table = label_bias(three_paths(entropy_form=False))
    assert list(table.columns) == ["kl_form", "entropy_form"]
    np.testing.assert_allclose(sorted(table["kl_form"]), [0.25, 0.25, 0.5], atol=1e-12)
    assert table["kl_form"].idxmax() == "path 3"
    np.testing.assert_allclose(table["entropy_form"], [1 / 3] * 3, atol=1e-12)
    with pytest.raises(ValueError, match="noise"):
        label_bias(bridge(slip=0.1) if "slip" in bridge.__kwdefaults__ else bridge(discount=0.5))


def test_the_kitchen_of_one_intent():
    model = kitchen(wants="kettle", slip=0.1)
    assert isinstance(model, TrajectoryModel)
    assert model.mdp.terminal.sum() == 1
    assert bool((model.mdp.states("kettle") == model.mdp.terminal).all())
    assert int(kitchen().mdp.num_states) == 2 * model.mdp.num_states
    with pytest.raises(ValueError, match="wants is 'tea'"):
        kitchen(wants="tea")
    with pytest.raises(ValueError, match="one of the two"):
        kitchen(wants="kettle", kettle_probability=0.3)


@pytest.mark.parametrize("backend", ["variational", "exact"])
def test_goals_need_an_answer_where_the_trajectory_begins_alone(backend):
    """State 1 is barred to both models, and half of the starts are there; the trajectory stays in state 0."""
    process = cai.MDP([[[1.0, 0], [1, 0]], [[0, 1], [0, 1]]], [0.5, 0.5], axes="state-action-state")
    models = [TrajectoryModel(process, [[1.0 - m, m], [-math.inf, -math.inf]], 2, temperature=0.5) for m in range(2)]
    found = goals(models, [0, 0, 0], [0, 0], backend=backend)
    odds = math.exp(2 * 2)  # each step exp(1 / 0.5) : 1
    assert found[:, 0].tolist() == pytest.approx([0.5, math.exp(2) / (1 + math.exp(2)), odds / (1 + odds)], rel=1e-12)
