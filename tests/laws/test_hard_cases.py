"""Cases that look easy and are not: each once gave a wrong number with a good conscience."""

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from campaigns import over_seeds
from methods import EXACT, FAILURE_RATE, Method
from oracle import exact, random_problem
from scipy.stats import binom

import cai
from cai.inference import (
    Enumeration,
    Optimistic,
    RiskSensitive,
    Status,
    StructuredVariational,
    SumProduct,
    ValueIteration,
)
from cai.models import MDP, TableReward, TrajectoryModel, bridge

HALF = torch.ones(2, dtype=torch.float64) / 2


def corridor(length=6, **options):
    """One action, one way, -1 a step: a transition matrix that is nilpotent on the nonterminal states."""
    moves = np.zeros((length, 1, length))
    moves[range(length - 1), 0, range(1, length)] = 1
    moves[-1, 0, -1] = 1
    return TrajectoryModel(
        MDP(moves, [1.0] + [0.0] * (length - 1), terminal=[length - 1]), -1.0, **{"horizon": math.inf, **options}
    )


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_a_spectral_radius_of_zero_does_not_mean_that_one_backup_is_enough(discount):
    model = corridor(discount=discount)
    want = cai.infer(model.replace(horizon=50), "exact").log_evidence
    assert float(cai.infer(model, "exact").log_evidence) == pytest.approx(float(want), abs=1e-9)


@pytest.mark.parametrize("temperature", [0.03, 0.01])
def test_cold_messages_need_to_travel_before_they_settle(temperature):
    model = bridge(horizon=math.inf, temperature=temperature)
    want = cai.infer(model.replace(horizon=400), "exact").log_evidence
    assert float(cai.infer(model, "exact").log_evidence) == pytest.approx(float(want), rel=1e-9)


def test_a_fast_component_does_not_hide_a_slow_one():
    moves = [[[0.5, 0.0, 0.5]], [[0.0, 0.999, 0.001]], [[0.0, 0.0, 1.0]]]
    model = TrajectoryModel(MDP(moves, [0.0, 1.0, 0.0], terminal=[2]), [-1.0, -1e-9, 0.0], horizon=math.inf)
    assert float(cai.infer(model, "variational").elbo) == pytest.approx(-1e-6, abs=1e-8)


@pytest.mark.parametrize("name", ["exact", "variational"])
@pytest.mark.parametrize("size", [0.0, 1e-6, 1.0])
def test_gradients_over_an_infinite_horizon_are_those_of_the_fixed_point(name, size):
    rng = np.random.default_rng(0)
    moves = rng.dirichlet(np.ones(3), size=(3, 2))
    start = torch.as_tensor(-size * rng.random((3, 2)))

    def bound(table, horizon):
        model = TrajectoryModel(MDP(moves, np.ones(3) / 3), TableReward(table), horizon=horizon, discount=0.8)
        return cai.infer(model, name).elbo

    slopes = []
    for horizon in (math.inf, 200):
        table = start.clone().requires_grad_()
        slopes.append(torch.autograd.grad(bound(table, horizon), table)[0])
    assert torch.allclose(*slopes, atol=1e-8)


@pytest.mark.parametrize("name", ["variational", "optimistic"])
def test_an_action_that_looked_hopeless_can_come_back(name):
    """The first greedy step drives its probability below e^-745."""
    moves = np.zeros((3, 2, 3))
    moves[0, 0, 2] = moves[0, 1, 1] = 1
    moves[1, :, 2] = moves[2, :, 2] = 1
    reward = torch.zeros(3, 2, dtype=torch.float64)
    reward[1] = torch.tensor([400.0, -2000.0])
    model = TrajectoryModel(MDP(moves, [1.0, 0.0, 0.0], terminal=[2]), reward, horizon=2)
    want = cai.infer(model, name).elbo
    assert float(cai.infer(model, name, solver="svi").elbo) == pytest.approx(float(want), abs=1e-9)


@pytest.mark.parametrize("size", [36.0, 50.0, 300.0])
def test_enumeration_keeps_marginals_of_messages_far_below_their_shift(size):
    stay = MDP(torch.eye(2, dtype=torch.float64)[:, None, :], [0.5, 0.5])
    model = TrajectoryModel(stay, lambda s, a, n, t: torch.where(s == t, 0.0, -size), horizon=2)
    oracle, posterior = cai.infer(model, "exact"), cai.infer(model, "enumeration")
    assert torch.allclose(posterior.state_marginals, oracle.state_marginals, atol=1e-9)
    for field in ("believed_return", "luck", "policy_divergence", "policy_entropy"):
        assert float(getattr(posterior, field)) == pytest.approx(float(getattr(oracle, field)), abs=1e-9), field


@pytest.mark.parametrize("method", [m for m in EXACT if m.has_evidence], ids=str)
@over_seeds(range(40), quick=10)
def test_large_rewards_on_random_problems(method: Method, seeds):
    for seed in seeds:
        problem = random_problem(seed + 500, reward="sa")
        table = problem.model.reward.table * 25
        model = problem.model.replace(reward=table)
        for rows in problem.outcomes:
            for row in rows:
                for k, (chance, following, rewards) in enumerate(row):
                    row[k] = (chance, following, [25 * r for r in rewards])
        want = exact(problem)
        row = cai.compare(model, [method.backend], num_rollouts=2).rows[0]
        if "nats apart" in row.detail:
            assert row.backend == "enumeration"
            continue
        got = row.posterior
        if want.log_evidence == -math.inf:
            assert got.status is Status.IMPOSSIBLE
            continue
        assert float(got.elbo) == pytest.approx(want.log_evidence, rel=1e-9, abs=1e-9)
        assert np.allclose(got.state_marginals.numpy(), want.marginals, atol=1e-9), seed
        assert float(got.believed_return) == pytest.approx(want.believed_return, rel=1e-9, abs=1e-8), seed


def windy_choice():
    """In state 0 the weather is always fair; action 1 is forbidden in foul weather alone, and pays in fair."""
    weather = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    score = torch.tensor([[0.0, 5.0], [0.0, -math.inf]], dtype=torch.float64)
    state = pyro.sample("s_1", dist.Categorical(HALF))
    for t in pyro.markov(range(1, 3)):
        wind = pyro.sample(f"w_{t}", dist.Categorical(weather[state]))
        action = pyro.sample(f"a_{t}", dist.Categorical(HALF))
        following = pyro.sample(f"s_{t + 1}", dist.Categorical(HALF))
        pyro.factor(f"O_{t}", score[wind, action])
        state = following


def test_an_action_is_banned_only_where_it_can_do_harm():
    """By hand: each step is worth log((1 + e^5) / 2) in state 0 and log(1/2) in state 1, and both come evenly."""
    want = 2 * (math.log((1 + math.exp(5)) / 2) + math.log(0.5)) / 2
    assert float(cai.infer(windy_choice, "variational").elbo) == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize("reveals", ["the state", "certainty", "nothing"])
def test_what_is_impossible_and_what_cannot_be_avoided(reveals):
    def program():
        chance = torch.tensor([1.0, 0.0], dtype=torch.float64) if reveals == "certainty" else HALF
        wind = pyro.sample("w", dist.Categorical(chance))
        row = torch.eye(2, dtype=torch.float64)[wind] if reveals == "the state" else HALF
        pyro.sample("s_1", dist.Categorical(row))
        action = pyro.sample("a_1", dist.Categorical(HALF))
        pyro.factor("O_1", torch.where(action == wind, 0.0, -math.inf))

    assert float(cai.infer(program, "enumeration").log_evidence) == pytest.approx(math.log(0.5), abs=1e-9)
    fixed = cai.infer(program, "variational", throw=False)
    if reveals == "nothing":
        assert fixed.status is Status.UNAVOIDABLE
    else:
        assert float(fixed.elbo) == pytest.approx(math.log(0.5), abs=1e-9)


@pytest.mark.parametrize("kind", ["bernoulli", "categorical"])
def test_an_observation_of_probability_zero_is_impossible(kind):
    def program():
        state = pyro.sample("s_1", dist.Categorical(HALF))
        action = pyro.sample("a_1", dist.Categorical(HALF))
        never = 0.0 * (action + state).float()
        if kind == "bernoulli":
            pyro.sample("O_1", dist.Bernoulli(never), obs=torch.tensor(1.0))
        else:
            pyro.sample("O_1", dist.Categorical(torch.stack([1 - never, never], -1)), obs=torch.tensor(1))

    for backend in (Enumeration(), StructuredVariational(), Optimistic()):
        assert cai.infer(program, backend, throw=False).status is Status.IMPOSSIBLE


def sticky():
    """A latent that stays: q's steps do not make a chain."""
    wind = pyro.sample("w", dist.Categorical(HALF))
    leans = torch.tensor([[0.95, 0.05], [0.05, 0.95]], dtype=torch.float64)
    pyro.sample("s_1", dist.Categorical(HALF))
    for t in pyro.markov(range(1, 4)):
        action = pyro.sample(f"a_{t}", dist.Categorical(HALF))
        pyro.factor(f"O_{t}", 0.1 * action)
        pyro.sample(f"s_{t + 1}", dist.Categorical(leans[wind]))


def test_samples_of_a_fitted_guide_keep_what_the_program_remembers():
    count = 5000
    states, actions = cai.infer(sticky, "variational").sample(count, seed=1)
    assert states.shape == (count, 4)
    assert actions.shape == (count, 3)
    same = int(((states[:, 1] == states[:, 2]) & (states[:, 2] == states[:, 3])).sum())
    low, high = binom.interval(1 - FAILURE_RATE, count, 0.95**3 + 0.05**3)
    assert low <= same <= high


@pytest.mark.parametrize("name", ["enumeration", "variational", "optimistic"])
def test_samples_of_a_program_without_a_last_state(name):
    def program():
        state = pyro.sample("s_1", dist.Categorical(HALF))
        action = pyro.sample("a_1", dist.Categorical(HALF))
        pyro.factor("O_1", (state + action).double())

    states, actions = cai.infer(program, name).sample(7)
    assert states.shape == actions.shape == (7, 1)


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (1, 1)])
def test_enumeration_samples_one_state_or_one_action(shape):
    moves = np.full((shape[0], shape[1], shape[0]), 1 / shape[0])
    model = TrajectoryModel(MDP(moves, np.ones(shape[0]) / shape[0]), 0.5, horizon=2)
    states, actions = cai.infer(model, "enumeration").sample(5)
    assert states.shape == (5, 3)
    assert actions.shape == (5, 2)


@pytest.mark.parametrize("backend", [SumProduct(), StructuredVariational()])
def test_gradients_in_the_dynamics_hold_no_nan_beside_what_is_forbidden(backend):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    reward = torch.randn(3, 2, 3, generator=generator, dtype=torch.float64)
    reward[0, 1, 2] = -math.inf

    def bound(table):
        return backend.run(
            TrajectoryModel(MDP(table.softmax(-1), [1.0, 0.0, 0.0]), TableReward(reward), horizon=3)
        ).elbo

    (slope,) = torch.autograd.grad(bound(logits), logits)
    assert torch.isfinite(slope).all()
    for index in itertools.product(range(3), range(2), range(3)):
        step = torch.zeros_like(logits)
        step[index] = 1e-6
        with torch.no_grad():
            numeric = (bound(logits + step) - bound(logits - step)) / 2e-6
        assert float(slope[index]) == pytest.approx(float(numeric), abs=1e-7)


def test_a_patient_discount_over_an_infinite_horizon():
    model = TrajectoryModel(
        MDP([[[0.5, 0.5]], [[0.5, 0.5]]], [1.0, 0.0]), [-1.0, 0.0], horizon=math.inf, discount=0.9999
    )
    outcome = cai.evaluate(cai.Policy([[1.0], [1.0]]), model, num_rollouts=2)
    assert outcome.expected_return == pytest.approx(-1 - 0.5 * 0.9999 / 0.0001, rel=1e-9)


def test_a_large_sparse_world_over_an_infinite_horizon_stays_sparse():
    """A ring of 4,000 states, above the size up to which [S, S] systems are solved."""
    size = 4_000
    here = np.arange(size)
    following = np.stack([(here + 1) % size, (here - 1) % size], 1)[..., None]
    start = np.zeros(size)
    start[0] = 1.0
    mdp = MDP.from_successors(following, np.ones((size, 2, 1)), start)
    reward = torch.zeros(size, dtype=torch.float64)
    reward[[1, 2, 3]] = 0.3
    model = TrajectoryModel(mdp, reward, horizon=math.inf, discount=0.5)
    for name in ("exact", "variational"):
        posterior = cai.infer(model, name)
        finite = cai.infer(model.replace(horizon=60), name)
        assert float(posterior.elbo) == pytest.approx(float(finite.elbo), abs=1e-9)
        assert float(posterior.believed_return) == pytest.approx(float(finite.believed_return), abs=1e-9)
    reward.requires_grad_()
    slopes = [
        torch.autograd.grad(cai.infer(model.replace(reward=reward, horizon=steps), "exact").log_evidence, reward)[0]
        for steps in (math.inf, 60)
    ]
    assert torch.allclose(*slopes, atol=1e-9)
    assert float(slopes[0].sum()) > 2  # live steps: more than 1 / (1 - discount) where luck is good


def test_positive_rewards_without_a_discount_settle_where_every_policy_ends():
    """A walk that stops at each step with probability 0.2, whatever is done, is the discounted walk that pays 1."""
    chances = torch.zeros(3, 2, 3).double()
    chances[0, :, 1] = chances[1, :, 0] = 0.8
    chances[:2, :, 2] = 0.2
    chances[2, :, 2] = 1.0
    ending = TrajectoryModel(MDP(chances, [1.0, 0.0, 0.0], terminal=[2]), torch.tensor([1.0, 1.0, 0.0]), math.inf)
    walk = MDP([[[0.0, 1.0]] * 2, [[1.0, 0.0]] * 2], [1.0, 0.0])
    discounted = TrajectoryModel(walk, torch.ones(2), math.inf, discount=0.8)
    for backend in (StructuredVariational(), RiskSensitive(0.0), ValueIteration(), RiskSensitive(-0.1)):
        found, want = backend.run(ending), backend.run(discounted)
        assert found.status is Status.SUCCESS
        assert float(found.elbo) == pytest.approx(float(want.elbo), abs=1e-8)
    # One action that may stay for ever is enough to leave the answer open.
    chances[0, 1] = torch.tensor([1.0, 0.0, 0.0]).double()
    endless = TrajectoryModel(MDP(chances, [1.0, 0.0, 0.0], terminal=[2]), torch.tensor([1.0, 1.0, 0.0]), math.inf)
    assert StructuredVariational().run(endless).status is Status.DIVERGED
