"""Fits of rewards of trajectory models: what is found, how sure it is, and what cannot be found."""

import math

import numpy as np
import pytest
import torch

import cai
from cai.inverse import Demonstrations, FitError, FitStatus, fit
from cai.models import LinearReward, ModuleReward, StepCost, TableReward, TrajectoryModel, gridworld, random_mdp
from cai.models.rewards.goals import Goal

WEIGHTS = (-0.5, 0.3, -0.8)


def world(slip=0.2, horizon=8, discount=1.0):
    """A small grid with three features of states and actions beside a step cost."""
    rng = np.random.default_rng(0)
    grid = gridworld("S..\n.#.\n..G", slip=slip, horizon=horizon)
    features = rng.normal(size=(grid.mdp.num_states, 4, 3))
    features[grid.mdp.terminal] = 0.0
    reward = LinearReward(features, WEIGHTS, names=["a", "b", "c"]) + StepCost(0.3)
    return TrajectoryModel(grid.mdp, reward, horizon, 1.0, discount)


def shown(model, n=200, seed=1, objective="likelihood"):
    if objective == "path":
        return Demonstrations(*cai.infer(model, "exact").sample(n, seed=seed))
    return Demonstrations.from_policy(cai.infer(model, "variational"), model, n, seed)


@pytest.mark.parametrize("objective", ["likelihood", "moments", "path"])
def test_coefficients_are_found_again(objective):
    model = world()
    est = fit(model, shown(model, objective=objective), objective=objective)
    assert est.status is FitStatus.SUCCESS
    assert list(est.coefficients.index) == ["a", "b", "c"]
    apart = (est.coefficients - np.array(WEIGHTS)) / est.standard_errors
    assert (apart.abs() < 4).all()
    np.testing.assert_allclose(
        est.problem.weights @ est.scores, torch.zeros(3), atol=1e-4 * float(est.num_demonstrations)
    )
    assert objective in est.summary()
    assert "KL" in est.summary()
    log_prob = est.log_prob(est.problem.demonstrations)
    assert float(est.problem.weights @ log_prob) == pytest.approx(est.log_likelihood, rel=1e-12)
    fitted = est.model()
    assert isinstance(fitted, TrajectoryModel)
    assert len(est.sample(3, seed=1)) == 3


@pytest.mark.parametrize("objective", ["moments", "path"])
def test_what_is_observed_is_expected_at_the_optimum(objective):
    """Features that tell all states and actions apart by sums: feature counts agree, for a free cost of each state."""
    grid = gridworld("S..\n.#.\n..G", slip=0.2, horizon=8)
    nonterminal = torch.nonzero(~grid.mdp.terminal).flatten()
    features = torch.zeros(grid.mdp.num_states, len(nonterminal)).double()
    features[nonterminal, torch.arange(len(nonterminal))] = 1.0
    model = TrajectoryModel(grid.mdp, LinearReward(features, -0.5 * torch.ones(len(nonterminal))), 8)
    est = fit(model, shown(model, 50, objective=objective), objective=objective, throw=False)
    assert est.status.ok
    counts = est.problem.counts(est.vector).groupby(level="state").sum()
    np.testing.assert_allclose(counts["observed"], counts["expected"], rtol=1e-6, atol=1e-6)


def test_moments_have_a_sandwich_and_no_ratio():
    model = world()
    drawn = shown(model, 60)
    est = fit(model, drawn, objective="moments")
    assert est.covariance_kind == "sandwich"
    assert est.aic is None
    assert est.bic is None
    fewer = fit(model, drawn, objective="moments", fixed={"c": 0.0})
    assert est.likelihood_ratio(fewer) is None
    with pytest.raises(ValueError, match="true errors are larger"):
        fit(model, drawn, objective="moments", covariance="hessian")
    by_person = Demonstrations(drawn.states, drawn.actions, drawn.lengths, persons=[n // 2 for n in range(60)])
    assert (fit(model, by_person, objective="moments", covariance="cluster").standard_errors > 0).all()


def test_fixed_coefficients_stay():
    model = world()
    drawn = shown(model, 60)
    est = fit(model, drawn, fixed={"b": 0.3})
    assert est.coefficients["b"] == 0.3
    assert math.isnan(est.standard_errors["b"])
    assert est.scores.shape == (60, 2)
    whole = fit(model, drawn)
    assert whole.log_likelihood >= est.log_likelihood
    assert whole.likelihood_ratio(est).statistic == pytest.approx(2 * (whole.log_likelihood - est.log_likelihood))


def test_weights_are_fitted_whether_they_require_grad_or_not():
    model = world()
    drawn = shown(model, 60)
    first = fit(model, drawn)
    leaf, cost = model.reward.terms()
    weights = torch.tensor(WEIGHTS, dtype=torch.float64, requires_grad=True)
    other = torch.zeros(model.mdp.num_states, dtype=torch.float64, requires_grad=True)
    reward = LinearReward(leaf.features, weights, names=["a", "b", "c"]) + cost + TableReward(other)
    second = fit(model.replace(reward=reward), drawn)
    np.testing.assert_allclose(first.coefficients, second.coefficients, rtol=1e-9)
    unnamed = fit(model.replace(reward=LinearReward(leaf.features, WEIGHTS) + cost), drawn)
    assert list(unnamed.coefficients.index) == ["w0", "w1", "w2"]


def test_units_of_a_feature_do_not_matter():
    model = world()
    drawn = shown(model, 60)
    leaf, cost = model.reward.terms()
    scale = torch.tensor([100.0, 1e-3, 1.0]).double()
    other = LinearReward(leaf.features * scale, torch.tensor(WEIGHTS) / scale, names=["a", "b", "c"]) + cost
    first, second = fit(model, drawn), fit(model.replace(reward=other), drawn)
    np.testing.assert_allclose(second.coefficients * scale.numpy(), first.coefficients, rtol=1e-7)
    assert second.log_likelihood == pytest.approx(first.log_likelihood, rel=1e-10)


def test_the_temperature_is_a_unit():
    model = world()
    drawn = shown(model, 60)
    leaf, cost = model.reward.terms()
    warm = model.replace(temperature=2.0, reward=leaf + 2.0 * cost)
    np.testing.assert_allclose(fit(warm, drawn).coefficients, 2 * fit(model, drawn).coefficients, rtol=1e-7)


@pytest.mark.parametrize("objective", ["likelihood", "moments", "path"])
@pytest.mark.parametrize("horizon", [8, math.inf])
def test_a_feature_that_nobody_takes_is_separated(horizon, objective):
    model = world(slip=0.0, horizon=horizon)
    leaf, _ = model.reward.terms()
    likes = leaf if horizon < math.inf else 0.0
    model = model.replace(reward=StepCost(2.0) + likes)
    drawn = shown(model, 30)
    taken = torch.zeros(model.mdp.num_states, 4, dtype=torch.bool)
    taken[drawn.states[:, :-1].reshape(-1), drawn.actions.reshape(-1)] = True
    never = torch.nonzero(~taken & ~model.mdp.terminal[:, None])[0]
    features = torch.zeros(model.mdp.num_states, 4, 1).double()
    features[tuple(never)] = 1.0
    model = model.replace(reward=StepCost(2.0) + likes + LinearReward(features, [-1.0], names=["rare"]))
    est = fit(model, drawn, objective=objective, throw=False)
    assert est.status is FitStatus.SEPARATED
    assert any("rare" in text and "the least" in text for text in est.warnings)
    assert est.coefficients.isna().all()
    with pytest.raises(FitError, match="separated"):
        fit(model, drawn, objective=objective)
    assert fit(model, drawn, objective=objective, fixed={"rare": -1.0}, throw=False).status.ok


def test_the_shortest_ways_are_the_extreme_of_a_step_cost():
    grid = gridworld("S..\n...\n..G", slip=0.0, horizon=8)
    features = torch.ones(grid.mdp.num_states, 1).double()
    features[grid.mdp.terminal] = 0.0
    model = TrajectoryModel(grid.mdp, LinearReward(features, [-1.0], names=["steps"]), 8)
    direct = Demonstrations([[0, 1, 2, 5, 8], [0, 3, 4, 7, 8]], [[1, 1, 2, 2], [2, 1, 2, 1]])
    for objective in ("likelihood", "moments", "path"):
        est = fit(model, direct, objective=objective, throw=False)
        assert est.status is FitStatus.SEPARATED
        assert "the least" in est.warnings[0]


def test_a_constant_is_not_identified_where_all_paths_are_equally_long():
    model = random_mdp(num_states=5, num_actions=3, horizon=6)
    rng = np.random.default_rng(0)
    features = np.concatenate([np.ones((5, 1)), rng.normal(size=(5, 1))], 1)
    model = model.replace(reward=LinearReward(features, [0.0, 1.0], names=["constant", "x"]))
    est = fit(model, shown(model, 50), throw=False)
    assert est.status is FitStatus.NOT_IDENTIFIED
    assert math.isnan(est.coefficients["constant"])
    assert math.isfinite(est.coefficients["x"])
    assert est.standard_errors["x"] > 0
    flat = est.null_space()
    assert flat.shape == (1, 2)
    np.testing.assert_allclose(flat.abs().to_numpy(), [[1.0, 0.0]], atol=1e-6)
    # In a world where paths may end, a step more or less is worth something.
    grid = world(slip=0.0)
    other = np.concatenate([np.ones((8, 1)), rng.normal(size=(8, 1))], 1)
    other[grid.mdp.terminal] = 0.0
    there = est.transfer(grid.replace(reward=LinearReward(other, [0.0, 0.0], names=["constant", "x"])))
    assert there.change > 0.01
    assert "leave open" in there.warning
    here = est.transfer(model)
    assert here.change < 1e-8
    assert here.warning is None
    with pytest.raises(ValueError, match="do not share the coefficient"):
        est.transfer(grid)


def shaped_world(seed=0, size=4):
    rng = np.random.default_rng(seed)
    mdp = cai.MDP(rng.dirichlet(np.ones(size), size=(size, 3)), np.ones(size) / size)
    return TrajectoryModel(mdp, TableReward(rng.normal(size=(size, 3))), math.inf, discount=0.8)


def test_a_free_table_is_known_up_to_shaping():
    model = shaped_world()
    drawn = Demonstrations.from_policy(cai.infer(model, "variational"), model, 20, 1, max_steps=40)
    free = TableReward(torch.zeros(4, 3, dtype=torch.float64, requires_grad=True))
    est = fit(model.replace(reward=free), drawn)
    assert any("known up to shaping" in text for text in est.warnings)
    flat = torch.tensor(est.null_space().to_numpy())
    assert len(flat) == 4  # a potential for each state
    table = est.vector
    np.testing.assert_allclose(flat @ table, torch.zeros(4), atol=1e-6)  # the smallest norm
    moved = torch.eye(4)[:, None] - 0.8 * model.mdp.probabilities.permute(0, 1, 2)  # Phi(s) - gamma E Phi(s')
    shaping = moved.double().reshape(12, 4)
    inside = flat.T @ (flat @ shaping)
    np.testing.assert_allclose(inside, shaping, atol=1e-6)
    assert est.transfer(model.replace(reward=free)).change < 1e-6
    assert est.transfer(shaped_world(1).replace(reward=free)).change > 0.01
    # Every policy was seen: the table reproduces the frequencies of actions.
    frequencies = est.problem.steps.counts(1, 4, 3)[0]
    frequencies = frequencies / frequencies.sum(-1, keepdim=True)
    np.testing.assert_allclose(cai.infer(est.model(), "variational").action_probs[0], frequencies, atol=1e-6)


@pytest.mark.parametrize("objective", ["likelihood", "moments", "path"])
def test_parameters_of_modules_are_learned_without_errors(objective):
    torch.manual_seed(0)
    grid = gridworld("S..\n.#.\n..G", slip=0.2, horizon=5)
    features = torch.randn(grid.mdp.num_states, 4, 2).double()
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1)).double()
    inside = ModuleReward(net, features).at(states=~grid.mdp.terminal)
    model = TrajectoryModel(grid.mdp, inside + Goal([grid.mdp.num_states - 1], 2.0), 4)
    drawn = shown(model, 20)
    before = [parameter.detach().clone() for parameter in net.parameters()]
    est = fit(model, drawn, objective=objective, penalty=cai.inverse.L2(1.0), tolerance=1e-3)
    assert est.status.ok
    assert est.standard_errors.isna().all()
    assert any("no standard errors" in text for text in est.warnings)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))  # the user's own stay
    again = cai.inverse.fit(est.model(), drawn, objective=objective, fixed=dict(est.coefficients), throw=False)
    assert again.log_likelihood == pytest.approx(est.log_likelihood, rel=1e-9)
    asked = est.problem
    value, slope = asked.evaluate(asked.start)
    assert est.log_likelihood > value
    for i in (0, 5):
        unit = torch.zeros_like(asked.start)
        unit[i] = 1e-5
        rise = (asked.evaluate(asked.start + unit)[0] - asked.evaluate(asked.start - unit)[0]) / 2e-5
        assert float(slope[i]) == pytest.approx(rise, rel=1e-5, abs=1e-6)


def test_what_cannot_be_learned_is_said():
    model = world()
    drawn = shown(model, 5)
    with pytest.raises(ValueError, match="nothing to learn"):
        fit(model.replace(reward=StepCost(1.0)), drawn)
    features = torch.zeros(model.mdp.num_states, 1)
    with pytest.raises(ValueError, match="feature 'w0' is 0 in every step"):
        fit(model.replace(reward=LinearReward(features, [1.0])), drawn)
    leaf, cost = model.reward.terms()
    with pytest.raises(ValueError, match="two coefficients are called 'a'"):
        fit(model.replace(reward=leaf + cost + leaf), drawn)
    with pytest.raises(ValueError, match="temperature"):
        fit(model.replace(temperature=torch.tensor(1.0, requires_grad=True)), drawn)
    forbidding = torch.zeros(model.mdp.num_states, 4).double()
    forbidding[drawn.states[0, 0], drawn.actions[0, 0]] = -torch.inf
    with pytest.raises(ValueError, match=r"demonstration 0 takes action .* that the reward forbids"):
        fit(model.replace(reward=leaf + TableReward(forbidding)), drawn)
    with pytest.raises(TypeError, match="Demonstrations"):
        fit(model, drawn.states)


@pytest.mark.campaign
@pytest.mark.parametrize("objective", ["likelihood", "moments", "path"])
def test_intervals_cover_and_moments_need_their_sandwich(objective):
    """200 simulated fits: z-values of every coefficient have variance 1, under each objective."""
    model, z = world(), []
    for seed in range(200):
        est = fit(model, shown(model, 60, seed, objective), objective=objective)
        z.append(((est.coefficients - np.array(WEIGHTS)) / est.standard_errors).to_numpy())
    covered = (np.abs(np.array(z)) < 1.96).mean(0)
    # A binomial of 200 draws at .95 has deviation .0154; it is 4.5 of these apart once in 1e5.
    assert (np.abs(covered - 0.95) < 0.07).all(), covered
