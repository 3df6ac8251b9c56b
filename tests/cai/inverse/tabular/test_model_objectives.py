"""The three objectives on tables: values by brute force, exact derivatives, what makes them equal and what does not."""

import math

import numpy as np
import pytest
import torch
from inverse_oracle import differences, fork, log_likelihood, random_case, tensor

import cai
from cai.inverse.tabular.objective import ModelObjective
from cai.models import LinearReward, OutcomeReward, StepCost, TableReward, TrajectoryModel, gridworld
from cai.models.demonstrations.demonstrations import Demonstrations

OBJECTIVES = ("likelihood", "moments", "path")


def demonstrated(case, seed=0, n=6):
    """Demonstrations of the case's own best policy, with weights."""
    answer = cai.infer(case.model, "variational", throw=False)
    if not answer.status.ok:
        pytest.skip("forbidden outcomes can not be avoided here")
    drawn = Demonstrations.from_policy(answer, case.model, n, seed)
    weights = np.random.default_rng(seed).uniform(0.5, 2.0, n)
    return Demonstrations(drawn.states, drawn.actions, drawn.lengths, weights=weights)


def rows(demonstrations):
    return [(states.tolist(), actions.tolist()) for states, actions in demonstrations]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("seed", range(8))
def test_values_are_those_of_the_definition(seed, objective):
    case = random_case(seed, discount=1.0 if objective == "path" else None, forbidden=objective == "likelihood")
    demonstrations = demonstrated(case, seed)
    found = ModelObjective(case.model, demonstrations, objective).log_probs(tensor(case.weights))
    problem = case.at(case.weights)
    want = [log_likelihood(problem, *row, objective) for row in rows(demonstrations)]
    np.testing.assert_allclose(found, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("seed", range(4))
def test_gradients_are_differences_of_the_definition(seed, objective):
    case = random_case(seed, discount=1.0 if objective == "path" else None, size=3)
    demonstrations = demonstrated(case, seed)
    asked = ModelObjective(case.model, demonstrations, objective)
    value, gradient = asked.evaluate(tensor(case.weights))

    def defined(weights):
        problem = case.at(weights)
        each = [log_likelihood(problem, *row, objective) for row in rows(demonstrations)]
        return float(np.asarray(demonstrations.weights) @ each)

    assert value == pytest.approx(defined(case.weights), rel=1e-10, abs=1e-10)
    np.testing.assert_allclose(gradient, differences(defined, case.weights, 1e-3), rtol=1e-7, atol=1e-7)


def model_of(seed, horizon, discount, kind):
    """A process with slips, an end, a prior and a reward that stays; features of states, pairs or next states."""
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(0.4 * np.ones(5), size=(5, 3))
    chances[4] = np.eye(5)[4]
    features = rng.normal(size={"s": (5, 3), "sa": (5, 3, 3), "sas": (5, 3, 5, 3)}[kind])
    features[4] = 0.0
    mdp = cai.MDP(chances, rng.dirichlet(np.ones(5)), terminal=[4], available=rng.random((5, 3)) < 2)
    reward = LinearReward(features, 0.4 * rng.normal(size=3)) + StepCost(1.5)
    if horizon != math.inf:
        table = rng.normal(size=(5, 3))
        table[4] = 0.0
        reward = reward + TableReward(table).scheduled(lambda t: 0.5 - 0.1 * t)
    return TrajectoryModel(mdp, reward, horizon, 1.3, discount, rng.dirichlet(np.ones(3), size=5))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", ["s", "sa", "sas"])
@pytest.mark.parametrize(("horizon", "discount"), [(1, 1.0), (4, 1.0), (4, 0.8), (math.inf, 1.0), (math.inf, 0.9)])
def test_scores_and_hessians_follow_from_values(horizon, discount, kind, objective):
    if (objective == "path" and discount < 1) or (horizon == math.inf and kind != "sas"):
        return
    model = model_of(3, horizon, discount, kind)
    drawn = Demonstrations.from_policy(cai.infer(model, "variational"), model, 8, 1)
    demonstrations = Demonstrations(drawn.states, drawn.actions, drawn.lengths, weights=np.linspace(0.5, 2.0, 8))
    asked = ModelObjective(model, demonstrations, objective)
    weights = asked.start
    _, gradient = asked.evaluate(weights)
    np.testing.assert_allclose(asked.weights @ asked.scores(weights), gradient, rtol=1e-9, atol=1e-9)
    for number, row in list(enumerate(asked.scores(weights)))[:2]:
        alone = ModelObjective(model, demonstrations.select([number]), objective).evaluate(weights)[1]
        np.testing.assert_allclose(row * demonstrations.weights[number], alone, rtol=1e-9, atol=1e-9)

    def both(place):
        value, slope = asked.evaluate(tensor(place))
        return np.array([value, *slope.tolist()])

    found = differences(both, weights, 1e-3)
    np.testing.assert_allclose(gradient, found[:, 0], rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(asked.hessian(weights), found[:, 1:], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("objective", ["moments", "path"])
def test_moments_and_path_are_concave_in_the_weights(objective):
    for seed in range(2):
        model = model_of(seed, 4, 1.0, "sa")
        drawn = Demonstrations.from_policy(cai.infer(model, "variational"), model, 8, 1)
        asked = ModelObjective(model, drawn, objective)
        for scale in (0.0, 1.0, 5.0):
            assert float(torch.linalg.eigvalsh(asked.hessian(scale * asked.start))[-1]) <= 1e-9


@pytest.mark.parametrize("seed", range(8))
def test_the_three_are_one_where_dynamics_are_certain(seed):
    case = random_case(seed, discount=1.0, deterministic=True)
    demonstrations = demonstrated(case, seed)
    places = [tensor(case.weights), tensor(case.weights) * -0.3, tensor([0.7, 0.1])]
    values, gradients = [], []
    for objective in OBJECTIVES:
        asked = ModelObjective(case.model, demonstrations, objective)
        values.append([asked.evaluate(place)[0] for place in places])
        gradients.append(torch.stack([asked.evaluate(place)[1] for place in places]))
    for other in (1, 2):
        np.testing.assert_allclose(np.diff(values[other]), np.diff(values[0]), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(gradients[other], gradients[0], rtol=1e-9, atol=1e-9)


def test_feature_counts_are_not_the_gradient_of_the_likelihood_under_noise():
    model = model_of(3, 4, 1.0, "sa")
    drawn = Demonstrations.from_policy(cai.infer(model, "variational"), model, 8, 1)
    apart = [ModelObjective(model, drawn, name).evaluate(torch.zeros(3).double())[1] for name in OBJECTIVES]
    assert all(float((apart[0] - other).abs().max()) > 0.1 for other in apart[1:])


def test_a_fork_that_is_cut_has_a_likelihood_that_is_not_concave():
    """Second derivatives by hand at w = 0: V(choice) = log(cosh w) in the KL form, log(2 cosh w) in the entropy form.

    log pi(a) = Q_a - log(p e^{Q_a} + p e^0), whose second derivative is Q_a''(1 - pi(a)), Q_a'' = 1 and pi(a) = 1/2
    in the KL form; in the entropy form pi(a) = 2/3.
    """
    model = fork()
    cut = Demonstrations([[0, 1]], [[0]], complete=[False])
    for form, want in ((model, 1 / 2), (model.entropy_form(), 1 / 3)):
        asked = ModelObjective(form, cut, "likelihood")
        assert float(asked.hessian(torch.zeros(1).double())) == pytest.approx(want, abs=1e-12)
        slopes = differences(lambda w: asked.evaluate(tensor(w))[1].numpy(), [0.0], 1e-3)  # noqa: B023
        assert float(slopes[0, 0]) == pytest.approx(want, abs=1e-9)


def test_the_likelihood_is_that_of_the_posterior_without_what_the_world_does():
    model = model_of(5, 4, 0.8, "sas")
    answer = cai.infer(model, "variational")
    drawn = Demonstrations.from_policy(answer, model, 10, 3)
    found = ModelObjective(model, drawn).log_probs(ModelObjective(model, drawn).start)
    whole = answer.log_prob(drawn.states, drawn.actions)
    nonterminal = model.nonterminal[drawn.states[:, :-1]]
    moved = model.mdp.probabilities[drawn.states[:, :-1], drawn.actions, drawn.states[:, 1:]]
    world = torch.where(nonterminal, moved.log() + math.log(0.8), torch.zeros(())).sum(1)
    ends = torch.where(nonterminal, torch.zeros(()), model.log_action_prior[drawn.states[:, :-1], drawn.actions]).sum(1)
    want = whole - model.mdp.initial[drawn.states[:, 0]].log() - world - ends
    np.testing.assert_allclose(found, want, rtol=1e-10, atol=1e-10)


def test_paths_are_those_of_the_exact_posterior_given_their_start():
    model = model_of(5, 4, 1.0, "sas")
    answer = cai.infer(model, "exact")
    states, actions = answer.sample(10, seed=0)
    asked = ModelObjective(model, Demonstrations(states, actions), "path")
    whole = answer.log_prob(states, actions) - answer.initial[states[:, 0]].log()
    ends = model.mdp.terminal[states[:, :-1]]
    waits = torch.where(ends, model.log_action_prior[states[:, :-1], actions], torch.zeros(())).sum(1)
    np.testing.assert_allclose(asked.log_probs(asked.start), whole - waits, rtol=1e-10, atol=1e-10)


def test_weights_count_as_copies_and_the_order_does_not_matter():
    model = model_of(3, 4, 1.0, "sa")
    drawn = Demonstrations.from_policy(cai.infer(model, "variational"), model, 6, 1)
    twice = Demonstrations(drawn.states, drawn.actions, drawn.lengths, weights=2 * np.ones(6))
    order = [3, 1, 0, 5, 4, 2]
    for objective in OBJECTIVES:
        one, two, three = (
            ModelObjective(model, demonstrations, objective)
            for demonstrations in (drawn.select([*range(6), *order]), twice, twice.select(order))
        )
        value, gradient = one.evaluate(one.start)
        for other in (two, three):
            np.testing.assert_allclose(other.evaluate(one.start)[0], value, rtol=1e-12)
            np.testing.assert_allclose(other.evaluate(one.start)[1], gradient, rtol=1e-11, atol=1e-12)


def test_several_outcomes_that_share_a_next_state_are_told_by_what_they_pay():
    """Two outcomes lead to the end and pay differently: moments take the mean, the path sums over both."""
    mdp = cai.MDP.from_successors(
        [[[1, 1, 0], [1, 0, 0]], [[1, 1, 1], [1, 1, 1]]],
        [[[0.5, 0.2, 0.3], [0.6, 0.4, 0.0]], [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]],
        0,
        terminal=[1],
    )
    outcome = OutcomeReward([[[1.0, -2.0, 0.5], [0.0, 0.3, 0.0]], [[0.0] * 3] * 2])
    features = np.array([[[0.3], [1.0]], [[0.0], [0.0]]])
    model = TrajectoryModel(mdp, outcome + LinearReward(features, [0.4]), 3)
    demonstrations = Demonstrations([[0, 0, 1], [0, 1]], [[1, 0], [0]])
    for objective in OBJECTIVES:
        asked = ModelObjective(model, demonstrations, objective)
        by_value = differences(lambda w: asked.evaluate(tensor(w))[0], [0.4], 1e-3)  # noqa: B023
        np.testing.assert_allclose(asked.evaluate(asked.start)[1], by_value, rtol=1e-7)
    mean = (0.5 * (1.0 + 0.12) + 0.2 * (-2.0 + 0.12)) / 0.7
    moments = ModelObjective(model, demonstrations.select([1]), "moments")
    values = cai.infer(model, "variational").values[0, 0]
    assert float(moments.evaluate(moments.start)[0]) == pytest.approx(mean - float(values), rel=1e-12)


def test_features_inside_wrappers_keep_their_share():
    model = gridworld("S..\n.#.\n..G", horizon=6)
    features = np.random.default_rng(0).normal(size=(model.mdp.num_states, 2))
    features[model.mdp.terminal] = 0.0
    plain = LinearReward(features, [0.3, -0.2], names=["x", "y"])
    drawn = Demonstrations.from_policy(cai.infer(model, "variational"), model, 5, 0)
    ways = (2.0 * plain, plain.named("likes"), plain.at(times=[0, 2]), plain.scheduled([0.5**t for t in range(6)]))
    for way in ways:
        asked = ModelObjective(model.replace(reward=model.reward + way), drawn)
        assert asked.names == ("x", "y")
        weights = tensor([0.7, 0.4])
        fitted = asked.parameters.fitted(weights)
        want = cai.infer(fitted, "variational").log_prob(drawn.states, drawn.actions)
        start = ModelObjective(fitted, drawn)
        np.testing.assert_allclose(start.start, weights)
        moved = asked.parameters.fitted(asked.start)
        gained = want - cai.infer(moved, "variational").log_prob(drawn.states, drawn.actions)
        found = asked.log_probs(weights) - asked.log_probs(asked.start)
        np.testing.assert_allclose(found, gained, rtol=1e-10, atol=1e-10)
