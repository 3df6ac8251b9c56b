"""SVI on the enumerated bound against the closed forms, and the extremes that break naive implementations."""

import math

import numpy as np
import pyro
import pytest
import torch
from campaigns import over_seeds
from methods import ALL, EXACT, FAILURE_RATE, FIXED
from oracle import random_problem
from scipy.stats import binom

import cai
from cai.inference import Optimistic, Status, StructuredVariational, SumProduct
from cai.inference.programs.guide import POLICY, StructuredGuide
from cai.models import MDP, TableReward, TrajectoryModel, bridge, gymnasium_model, lottery

LOTTERY = math.log((math.exp(-1) + (1 + math.exp(-10)) / 2) / 2)
LOTTERY_BOUND = math.log((math.exp(-1) + math.exp(-5)) / 2)


@pytest.mark.parametrize("method", EXACT, ids=str)
def test_the_lottery_in_closed_form(method):
    posterior = method.backend.run(lottery())
    gamble = (1 + math.exp(-10)) / 2 / (math.exp(-1) + (1 + math.exp(-10)) / 2)
    assert float(posterior.elbo) == pytest.approx(LOTTERY, abs=1e-10)
    assert float(posterior.action_probs[0, 0, 1]) == pytest.approx(gamble, abs=1e-10)
    won = 1 / (1 + math.exp(-10))
    assert posterior.dynamics(0)[0, 1].tolist() == pytest.approx([0, 0, won, 1 - won], abs=1e-10)


@pytest.mark.parametrize("method", [m for m in FIXED if not m.only], ids=str)
def test_the_lottery_with_fixed_dynamics(method):
    posterior = method.backend.run(lottery())
    assert float(posterior.elbo) == pytest.approx(LOTTERY_BOUND, abs=1e-10)
    gamble = math.exp(-5) / (math.exp(-1) + math.exp(-5))
    assert float(posterior.action_probs[0, 0, 1]) == pytest.approx(gamble, abs=1e-10)


@pytest.mark.parametrize("horizon", [2, 5, 10, 30])
@pytest.mark.parametrize("build", [bridge, lambda horizon: gymnasium_model("FrozenLake-v1", horizon=horizon)])
@pytest.mark.parametrize("backend", [StructuredVariational, Optimistic])
def test_svi_meets_the_closed_form(backend, build, horizon):
    model = build(horizon=horizon)
    closed, fitted = backend(solver="closed-form").run(model), backend(solver="svi").run(model)
    assert fitted.status is Status.SUCCESS
    assert float(fitted.elbo) == pytest.approx(float(closed.elbo), abs=1e-9)
    assert torch.allclose(fitted.state_marginals, closed.state_marginals, atol=1e-8)
    assert float(fitted.believed_return) == pytest.approx(float(closed.believed_return), abs=1e-8)
    assert float(fitted.luck) == pytest.approx(float(closed.luck), abs=1e-8)


@pytest.mark.parametrize("rate", [0.3, 0.7])
def test_a_shorter_step_gets_there_too(rate):
    model = bridge(horizon=6)
    fitted = StructuredVariational(solver="svi", learning_rate=rate, tolerance=1e-6).run(model)
    assert fitted.status is Status.SUCCESS
    assert float(fitted.elbo) == pytest.approx(float(StructuredVariational().run(model).elbo), abs=1e-6)
    assert list(fitted.details["history"]) == sorted(fitted.details["history"])


def test_svi_that_stops_early_says_so_and_keeps_its_best():
    posterior = StructuredVariational(solver="svi", max_iterations=2).run(bridge(horizon=10))
    assert posterior.status is Status.NOT_CONVERGED
    assert float(posterior.elbo) == pytest.approx(max(posterior.details["history"]), abs=1e-9)
    assert float(posterior.elbo) < float(StructuredVariational().run(bridge(horizon=10)).elbo)


def test_the_natural_gradient_is_the_gradient_over_the_fisher_information():
    """advantage(c, x) q(c, x) = d bound / d logit(c, x), by autograd through the enumerated bound."""
    from cai.inference.programs.guide import enumerate_guide

    model = random_problem(5, reward="sas", forbidden=False, terminals=0.0, discount=1.0, horizon=3).model
    assert model.mdp.num_actions > 1
    with pyro.get_param_store().scope():
        for free in (False, True):
            pyro.clear_param_store()
            guide = StructuredGuide(model, free_dynamics=free)
            enumerate_guide(guide)
            generator = torch.Generator().manual_seed(1)
            for value in pyro.get_param_store().values():
                value.data.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64))
            policy = pyro.param(POLICY)
            run = enumerate_guide(guide)
            (slope,) = torch.autograd.grad(run.bound(), policy)
            _, advantages = run.detach().advantages(guide.handler.contexts, guide.info.sizes)
            checked = 0
            for t in range(model.steps):
                probs = policy[t].softmax(-1).detach()
                natural = advantages[f"a_{t + 1}"]
                visits = slope[t].abs().sum(-1) > 0
                marginal = (slope[t] / (probs * natural))[visits & (natural.abs() > 1e-9).all(-1)]
                # what is left after division is q(s_t), the same for every action
                assert torch.allclose(marginal, marginal[:, :1].expand_as(marginal), atol=1e-9)
                checked += marginal.numel()
            assert checked >= 2 * model.mdp.num_actions


def test_the_guide_is_a_pyro_program_that_draws_from_q():
    model = bridge(horizon=4)
    fitted = StructuredVariational(solver="svi").run(model)
    guide = StructuredGuide(model)
    with pyro.get_param_store().scope():
        trace = pyro.poutine.trace(guide).get_trace()
    names = [name for name in trace.stochastic_nodes if name[0] in "sa"]
    assert names == ["s_1", "a_1", "s_2", "a_2", "s_3", "a_3", "s_4", "a_4", "s_5"]
    assert fitted.action_probs.shape == (4, model.mdp.num_states, 4)


def test_nothing_global_is_left_behind():
    pyro.get_param_store().clear()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for method in (m for m in ALL if not m.only):
        posterior = method.backend.run(random_problem(3).model, seed=1)
        if posterior.status.ok:
            posterior.sample(5, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert list(pyro.get_param_store().keys()) == []


@pytest.mark.parametrize("method", EXACT, ids=str)
def test_samples_follow_the_posterior(method):
    """The policy of the exact posterior is the conditional of its trajectory samples."""
    model = random_problem(11, horizon=3, forbidden=False, discount=0.8).model
    posterior, count = method.backend.run(model), 5000
    states, actions = posterior.sample(count, seed=5)
    mdp = model.mdp
    checks = 3 * mdp.num_states * (1 + mdp.num_actions)
    for t in range(3):
        for state in range(mdp.num_states):
            here = states[:, t] == state
            chance = float(posterior.state_marginals[t, state].clamp(0, 1))
            low, high = binom.interval(1 - FAILURE_RATE / checks, count, chance)
            assert low <= int(here.sum()) <= high
            for action in range(mdp.num_actions):
                took = int((actions[:, t][here] == action).sum())
                chance = float(posterior.action_probs[t, state, action].clamp(0, 1))
                low, high = binom.interval(1 - FAILURE_RATE / checks, int(here.sum()), chance)
                assert low <= took <= high
    fell = int((states[:, -1] == mdp.num_states).sum())
    low, high = binom.interval(1 - FAILURE_RATE, count, float(posterior.absorbed[-1]))
    assert low <= fell <= high


def test_optimality_can_be_sampled():
    """Unconditioned, all O_t = 1 happens as often as the evidence of the bernoulli form says."""
    model = lottery(horizon=1).replace(optimality="bernoulli")
    evidence, count = math.exp(float(SumProduct().run(model).log_evidence)), 3000
    program = pyro.poutine.uncondition(model)
    pyro.set_rng_seed(1)
    hits = sum(int(pyro.poutine.trace(program).get_trace().nodes["O_1"]["value"]) for _ in range(count))
    low, high = binom.interval(1 - FAILURE_RATE, count, evidence)
    assert low <= hits <= high


def finite_numbers(posterior):
    for name in ("log_evidence", "elbo", "believed_return", "luck", "policy_divergence", "policy_entropy"):
        value = getattr(posterior, name)
        assert value is None or not math.isnan(float(value.detach())), name
    for name in ("values", "q_values", "action_probs", "state_marginals", "absorbed", "initial"):
        value = getattr(posterior, name)
        assert value is None or not torch.isnan(value).any(), name


TABULAR = [m for m in ALL if str(m) in ("exact", "optimistic-closed-form", "variational-closed-form")]


@pytest.mark.parametrize("method", TABULAR, ids=str)
@pytest.mark.parametrize("size", [1.0, 1e2, 1e4, -1e4])
@over_seeds(range(20), quick=7)
def test_rewards_of_any_size(method, size, seeds):
    """Scaling reward and temperature together changes nothing but the units."""
    for seed in seeds:
        problem = random_problem(seed + 100, reward="sas", horizon=3)
        table = problem.model.reward.table
        if size < 0:
            table = torch.where(table == -math.inf, torch.zeros(()).double(), table)
        sign = 1.0 if size > 0 else -1.0
        big = problem.model.replace(reward=TableReward(table * size))
        same = problem.model.replace(reward=TableReward(sign * table), temperature=problem.temperature / abs(size))
        left, right = method.backend.run(big), method.backend.run(same)
        finite_numbers(left)
        assert left.status is right.status
        if left.status.ok:
            assert float(left.elbo) == pytest.approx(float(right.elbo), rel=1e-9, abs=1e-9)
            assert torch.allclose(left.action_probs, right.action_probs, atol=1e-9)
            parts = left.believed_return / big.temperature - left.policy_divergence - left.luck
            assert float(parts) == pytest.approx(float(left.elbo), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("method", ALL, ids=str)
def test_one_state_one_action_one_step(method):
    posterior = method.backend.run(TrajectoryModel(MDP([[[1.0]]], [1.0]), -2.5, horizon=1))
    assert float(posterior.elbo) == pytest.approx(-2.5, abs=1e-12)
    assert posterior.action_probs.tolist() == [[[1.0]]]
    assert posterior.dynamics(0).tolist() == [[[1.0]]]
    assert float(posterior.luck) == 0.0


@pytest.mark.parametrize("method", TABULAR, ids=str)
def test_a_long_horizon(method):
    model = bridge(horizon=500, step_cost=0.5)
    posterior = method.backend.run(model)
    finite_numbers(posterior)
    parts = posterior.believed_return - posterior.policy_divergence - posterior.luck
    assert float(parts) == pytest.approx(float(posterior.elbo), abs=1e-8)


@pytest.mark.parametrize("method", TABULAR, ids=str)
def test_a_state_without_hope_hurts_nobody_else(method):
    """All actions of one state are forbidden; the others must not see a NaN."""
    moves = np.full((3, 2, 3), 1 / 3)
    moves[0] = [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]
    moves[1] = [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]
    reward = torch.tensor([[0.0, -1.0], [0.0, 1.0], [-math.inf, -math.inf]], dtype=torch.float64, requires_grad=True)
    posterior = method.backend.run(TrajectoryModel(MDP(moves, [0.5, 0.5, 0.0]), reward, horizon=4))
    finite_numbers(posterior)
    assert posterior.status is Status.SUCCESS
    assert posterior.values[0, 2] == -math.inf
    assert posterior.action_probs[0, 2].tolist() == [0.5, 0.5]
    (slope,) = torch.autograd.grad(posterior.elbo, reward)
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("discount", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("name", ["exact", "variational", "optimistic"])
def test_infinite_horizons_are_the_limit_of_finite_ones(name, discount):
    model = bridge(horizon=math.inf, discount=discount, goal_reward=0.5)
    stationary = cai.infer(model, name)
    steps = math.ceil(math.log(1e-14) / math.log(discount))
    finite = cai.infer(model.replace(horizon=min(steps, 3000)), name)
    assert stationary.values.shape == (1, model.mdp.num_states)
    assert torch.allclose(stationary.values[0], finite.values[0], atol=1e-8)
    assert torch.allclose(stationary.action_probs[0], finite.action_probs[0], atol=1e-8)
    for field in ("elbo", "believed_return", "luck", "policy_divergence", "policy_entropy"):
        assert float(getattr(stationary, field)) == pytest.approx(float(getattr(finite, field)), abs=1e-7), field
    assert cai.extract_policy(stationary).horizon == math.inf


def test_an_infinite_horizon_that_diverges_is_a_status():
    gain = TrajectoryModel(MDP([[[1.0]]], [1.0]), 1.0, horizon=math.inf, discount=0.9)
    assert cai.infer(gain, "variational").status is Status.SUCCESS
    assert float(cai.infer(gain, "variational").values[0, 0]) == pytest.approx(10.0, abs=1e-8)
    grows = cai.infer(gain, "exact", throw=False)  # 0.9 e > 1
    assert grows.status is Status.DIVERGED
    assert grows.values is None
    assert grows.log_evidence is None
    small = gain.replace(temperature=20.0)  # 0.9 e^0.05 < 1
    value = 20 * math.log(0.1 * math.exp(0.05) / (1 - 0.9 * math.exp(0.05)))
    assert float(cai.infer(small, "exact").values[0, 0]) == pytest.approx(value, abs=1e-8)
