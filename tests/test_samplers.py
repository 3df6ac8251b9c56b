"""Particles: sequential Monte Carlo and importance sampling, held against exact answers."""

import itertools
import math
from statistics import NormalDist

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from methods import FAILURE_RATE
from oracle import exact, random_problem
from refusals import check, holds_no_nan, refuse
from test_programs import MOVE, PRIOR, REWARD, START, drawn_at_the_end, drawn_first, persistent, windy

import cai
from cai.inference import Status, SumProduct
from cai.inference.messages import EXACT, backward
from cai.inference.particles import inverse_cdf, move_particles, systematic
from cai.inference.replay import ReplaySystem
from cai.inference.smc import ImportanceSampling, SequentialMonteCarlo
from cai.inference.table_particles import TableSystem
from cai.models import MDP, TrajectoryModel
from cai.models.program import inspect_program


def small(**options):
    mdp = MDP([[[0.5, 0.5]], [[0.0, 1.0]]], [1.0, 0.0])
    return TrajectoryModel(mdp, **{"reward": [1.0, 0.0], "horizon": 2, **options})


def estimates(system, count, num_particles, threshold, log_psi=None):
    runs = [
        move_particles(system, num_particles=num_particles, ess_threshold=threshold, log_psi=log_psi, seed=seed)
        for seed in range(count)
    ]
    return torch.stack([run.log_evidence for run in runs])


def soft_values(model):
    values = backward(model, EXACT).values
    table = torch.cat([values, torch.zeros(len(values), 1, dtype=torch.float64)], 1)
    return lambda states, t: table[t][states]


def is_unbiased(logs, log_evidence, tests=1):
    """Whether exp(logs) have the mean exp(log_evidence), by a z-test."""
    shares = (logs - log_evidence).exp()
    error = float(shares.std()) / math.sqrt(len(shares))
    limit = -NormalDist().inv_cdf(FAILURE_RATE / (2 * tests))
    return abs(float(shares.mean()) - 1) <= limit * error + 1e-12


SETTINGS = list(itertools.product((0.0, 0.5, 1.0), (False, True)))


@pytest.mark.parametrize(("threshold", "looks_ahead"), SETTINGS)
def test_the_evidence_is_unbiased(threshold, looks_ahead):
    turn, tried = SETTINGS.index((threshold, looks_ahead)), 0
    for seed in range(20)[turn % 3 :: 3]:  # every problem is tried with two of the settings
        # A high temperature gives weights of moderate tails, for which 200 replicates are many.
        model = random_problem(seed + 20_000, horizon=3).model.replace(temperature=2.5)
        if seed % 2:
            model = model.replace(optimality="bernoulli")
        want = SumProduct().run(model).log_evidence
        logs = estimates(TableSystem(model), 200, 8, threshold, soft_values(model) if looks_ahead else None)
        assert not logs.isnan().any()
        if float(want) == -math.inf:
            assert (logs == -math.inf).all()
            continue
        tried += 1
        assert is_unbiased(logs, want, 20 * len(SETTINGS)), seed
    assert tried >= 5


def test_the_unbiasedness_test_can_fail():
    model = small(horizon=6)
    logs = estimates(TableSystem(model), 200, 8, 0.5)
    want = SumProduct().run(model).log_evidence
    assert is_unbiased(logs, want)
    assert not is_unbiased(logs + 0.5, want)


def test_weights_with_exact_values_are_those_of_whole_trajectories():
    """Without resampling psi cancels; where one action and one successor exist, every weight is p(O) at once."""
    for seed in range(20):
        problem = random_problem(seed)
        if exact(problem).log_evidence == -math.inf:
            continue
        runs = [
            SequentialMonteCarlo(30, ess_threshold=0, lookahead=lookahead).run(problem.model, seed=4)
            for lookahead in (None, "soft-value")
        ]
        if not all(run.status.ok for run in runs):
            continue
        plain, guided = (run.details["particles"] for run in runs)
        assert torch.equal(plain.states, guided.states)
        assert torch.allclose(plain.log_weights, guided.log_weights, atol=1e-9)
        model, states, actions = problem.model, plain.states, plain.actions
        for i in range(30):
            total = 0.0
            for t in range(problem.horizon):
                if states[i, t] < problem.num_states:
                    table = model.reward_table(t)[states[i, t], actions[i, t]]
                    total += float(table[plain.values[f"k_{t + 1}"][i] if len(table) > 1 else 0])
            assert float(plain.log_weights[i]) == pytest.approx(total / problem.temperature, abs=1e-9)
    chain = TrajectoryModel(MDP([[[0.0, 1.0]], [[1.0, 0.0]]], [1.0, 0.0]), [2.0, -1.0])
    run = SequentialMonteCarlo(20, ess_threshold=1.0, lookahead="soft-value").run(chain)
    assert run.details["ess"] == pytest.approx([20.0] * 21)
    assert float(run.log_evidence) == pytest.approx(float(SumProduct().run(chain).log_evidence), abs=1e-9)


def policy_error(posterior, truth):
    """Expected total variation of the policy along the exact posterior."""
    gaps = (posterior.action_probs - truth.action_probs).abs().sum(-1) / 2
    return float((truth.state_marginals[:-1] * gaps).sum() / len(gaps))


@pytest.mark.parametrize("lookahead", [None, "soft-value"])
def test_errors_fall_with_the_root_of_the_number_of_particles(lookahead):
    model = random_problem(7, horizon=3, reward="sas", forbidden=False, terminals=0.0).model.replace(temperature=2.0)
    assert min(model.mdp.num_states, model.mdp.num_actions) > 1
    truth = SumProduct().run(model)
    sizes = [100, 300, 1000, 3000, 10_000]
    errors = []
    for size in sizes:
        runs = [SequentialMonteCarlo(size, lookahead=lookahead).run(model, seed=seed) for seed in range(8)]
        errors.append(np.mean([policy_error(run, truth) for run in runs]))
        assert all(float(run.elbo) <= float(truth.log_evidence) + 1e-9 for run in runs)
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert -0.7 < slope < -0.35, (slope, errors)
    assert float(truth.log_evidence - runs[0].elbo) < 0.01


@pytest.mark.parametrize("backend", [SequentialMonteCarlo(400), ImportanceSampling(400)], ids=lambda b: b.name)
def test_answers_hold_together(backend):
    """The bound never exceeds the evidence and decomposes; tables are distributions; rows never visited keep the prior."""
    tried = 0
    for seed in range(60):
        problem = random_problem(seed)
        truth, got = SumProduct().run(problem.model), backend.run(problem.model, seed=seed)
        if not truth.status.ok:
            assert got.status is Status.IMPOSSIBLE
            assert float(got.log_evidence) == -math.inf
            assert float(got.elbo) == -math.inf
            continue
        tried += 1
        assert got.status is Status.SUCCESS
        assert float(got.elbo) <= float(truth.log_evidence) + 1e-9
        parts = got.believed_return / problem.temperature - got.policy_divergence - got.luck
        assert float(parts) == pytest.approx(float(got.elbo), abs=1e-9)
        particles = got.details["particles"]
        assert torch.allclose(got.action_probs.sum(-1), torch.ones(()).double())
        for t in range(problem.horizon):
            states = particles.states[particles.weights > 0, t]
            visited = states.bincount(minlength=problem.num_states + 1)[: problem.num_states] > 0
            kept = ~visited | problem.model.mdp.terminal
            assert torch.allclose(got.action_probs[t][kept], problem.model.action_prior[kept])
            own = torch.zeros(problem.num_states + 1).double().index_add(0, particles.states[:, t], particles.weights)
            assert torch.allclose(own[: problem.num_states], got.state_marginals[t], atol=1e-9)
        assert len(got.details["ess"]) == problem.horizon + 1
        assert particles.ess == pytest.approx(got.details["ess"][-1])
    assert tried > 40


def as_program(model):
    def program():
        model()

    return program


def test_both_engines_agree():
    """The tables of a model, and its program replayed: the same evidence and marginals."""
    model = random_problem(5, reward="sak", discount=0.9, forbidden=False, horizon=3).model.replace(temperature=2.0)
    assert model.has_outcome_sites
    program, truth = as_program(model), SumProduct().run(model)
    system = ReplaySystem(program, inspect_program(program))
    for threshold in (0.0, 0.5, 1.0):
        assert is_unbiased(estimates(system, 100, 30, threshold), truth.log_evidence, 3)
    states = model.mdp.num_states
    for question, temperature in ((model, 1.0), (program, 2.0)):
        answer = SequentialMonteCarlo(20_000).run(question)
        assert torch.allclose(answer.state_marginals[:, :states], truth.state_marginals, atol=0.03)
        assert float(answer.log_evidence) == pytest.approx(float(truth.log_evidence), abs=0.03)
        assert temperature * float(answer.believed_return) == pytest.approx(float(truth.believed_return), abs=0.1)
        assert float(answer.policy_entropy) == pytest.approx(float(truth.policy_entropy), abs=0.05)
        assert float(answer.policy_divergence) == pytest.approx(float(truth.policy_divergence), abs=0.05)


@pytest.mark.parametrize("kind", [drawn_at_the_end, drawn_first, windy, persistent], ids=lambda kind: kind.__name__)
def test_factors_belong_to_their_steps_wherever_the_program_writes_them(kind):
    """Broken off at every action or run at once, each trajectory weighs the sum of its factors, and each step counts."""
    program, size = kind(4), 40
    info = inspect_program(program)
    for threshold in (0.0, 1e-9):  # one block; a step at a time
        system = ReplaySystem(program, info)
        found = move_particles(system, num_particles=size, ess_threshold=threshold, log_psi=None, seed=2)
        states, actions = found.particles.states, found.particles.actions
        if kind is drawn_first:
            states = torch.cat([states, torch.zeros(size, 1, dtype=torch.int64)], 1)
        steps = [REWARD[states[:, t], actions[:, t], states[:, t + 1]] - 3.0 * (kind is windy) for t in range(4)]
        assert found.resamplings == 0
        assert torch.allclose(found.particles.log_weights, sum(steps), atol=1e-6)
        weights = torch.stack(steps).cumsum(0).exp()
        assert found.ess[1:] == pytest.approx((weights.sum(1) ** 2 / weights.square().sum(1)).tolist())


@pytest.mark.parametrize("kind", [drawn_first, windy, persistent], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("backend", [SequentialMonteCarlo, ImportanceSampling], ids=lambda b: b.name)
def test_programs_are_answered(kind, backend):
    truth, got = cai.infer(kind(3), "enumeration"), backend(20_000).run(kind(3), seed=1)
    assert float(got.log_evidence) == pytest.approx(float(truth.log_evidence), abs=0.15)
    assert torch.allclose(got.state_marginals, truth.state_marginals, atol=0.04)
    seen = truth.state_marginals[:3] > 0.2
    assert torch.allclose(got.action_probs[seen], truth.action_probs[seen], atol=0.08)
    assert float(got.believed_return) == pytest.approx(float(truth.believed_return), abs=0.15)
    states, actions = got.sample(3000, seed=2)
    assert states.dtype == actions.dtype == torch.int64
    assert states.shape == (3000, got.state_marginals.shape[0])
    again = got.sample(3000, seed=2)
    assert torch.equal(states, again[0])
    assert torch.equal(actions, again[1])
    distinct = torch.cat([states, actions], 1).unique(dim=0)
    scores = got.log_prob(*distinct.split([states.shape[1], 3], 1))
    assert torch.isfinite(scores).all()
    assert float(scores.exp().sum()) <= 1 + 1e-9
    everything = torch.cat([got.details["particles"].states, got.details["particles"].actions], 1).unique(dim=0)
    total = got.log_prob(*everything.split([states.shape[1], 3], 1)).exp().sum()
    assert float(total) == pytest.approx(1.0, abs=1e-9)


def gaussian(horizon, start=0.5, noise=0.3, price=0.4, cost=0.2, stacked=True):
    """A random walk that actions push, paid -price s'^2 - cost a^2 at each step."""

    def program():
        state = pyro.sample("s_1", dist.Normal(torch.tensor(start), 1.0))
        for t in range(1, horizon + 1):
            action = pyro.sample(f"a_{t}", dist.Normal(torch.tensor(0.0), 0.8))
            state = pyro.sample(f"s_{t + 1}", dist.Normal(state + action, noise))
            pyro.factor(f"O_{t}", -price * state**2 - cost * action**2)

    return program


def gaussian_answer(horizon, start=0.5, noise=0.3, price=0.4, cost=0.2):
    """(log E exp(-z' Q z), E[z | O]) over z = (s_1, ..., s_{T+1}, a_1, ..., a_T) by completing the square."""
    mixing = np.zeros((2 * horizon + 1, 2 * horizon + 1))  # from (s_1, noises, actions) to z
    mixing[: horizon + 1, 0] = 1.0
    for t in range(1, horizon + 1):
        mixing[t, 1 : t + 1] = noise
        mixing[t, horizon + 1 : horizon + 1 + t] = 0.8
    mixing[horizon + 1 :, horizon + 1 :] = 0.8 * np.eye(horizon)
    covariance, mean = mixing @ mixing.T, np.r_[np.full(horizon + 1, start), np.zeros(horizon)]
    prices = 2 * np.diag(np.r_[0.0, np.full(horizon, price), np.full(horizon, cost)])
    inner = np.eye(len(mean)) + covariance @ prices
    after = np.linalg.solve(inner, mean)
    log_evidence = -0.5 * np.linalg.slogdet(inner)[1] - 0.5 * mean @ prices @ after
    return log_evidence, after


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("guided", [False, True])
def test_a_linear_gaussian_program(threshold, guided):
    horizon = 3
    log_evidence, mean = gaussian_answer(horizon)
    program = gaussian(horizon)
    system = ReplaySystem(program, inspect_program(program))
    psi = (lambda states, t: -0.3 * states.double() ** 2) if guided else None
    assert is_unbiased(estimates(system, 100, 50, threshold, psi), log_evidence, 6)
    posterior = SequentialMonteCarlo(20_000, threshold, psi).run(program)
    assert float(posterior.log_evidence) == pytest.approx(log_evidence, abs=0.03)
    particles = posterior.details["particles"]
    found = particles.expect(lambda values: torch.cat([particles.states, particles.actions], 1))
    assert np.allclose(found.numpy(), mean, atol=0.05)


def test_an_answer_without_tables():
    posterior = cai.infer(gaussian(4), SequentialMonteCarlo(500))
    assert posterior.status is Status.SUCCESS
    assert "target=exact" in repr(posterior)
    assert posterior.action_probs.shape == (4, 0, 0)
    assert posterior.luck is posterior.elbo is posterior.values is None
    assert "continuous" in posterior.details["tables"]
    states, actions = posterior.sample(20, seed=1)
    assert states.shape == (20, 5)
    assert actions.shape == (20, 4)
    assert states.is_floating_point()
    assert torch.equal(states, posterior.sample(20, seed=1)[0])
    check(lambda: posterior.log_prob(states, actions), ValueError, r"weighted particles.*no density")
    posterior.to_xarray()
    holds_no_nan(posterior)


def test_vector_states_and_a_further_continuous_latent():
    """The mean action shifts by what the hidden gain makes of it; integrated by hand over the two gains."""

    def program():
        gain = pyro.sample("gain", dist.Normal(torch.tensor(1.0), 0.5))
        state = pyro.sample("s_1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        for t in range(1, 3):
            action = pyro.sample(f"a_{t}", dist.Categorical(torch.tensor([0.5, 0.5])))
            push = torch.stack([gain * action, -gain * action], -1)
            state = pyro.sample(f"s_{t + 1}", dist.Normal(state + push, 0.5).to_event(1))
            pyro.factor(f"O_{t}", state[..., 0])

    # E exp(s_2[0] + s_3[0]): Gaussian exponents, and pushes of 2 g a_1 + g a_2.
    def moment(k):  # E exp(k gain)
        return math.exp(k + 0.5 * 0.25 * k * k)

    pushes = (1 + moment(1) + moment(2) + moment(3)) / 4
    want = 0.5 * 4 + 0.5 * 0.25 * (4 + 1) + math.log(pushes)
    posterior = SequentialMonteCarlo(20_000).run(program, seed=3)
    assert float(posterior.log_evidence) == pytest.approx(want, abs=0.2)
    states, actions = posterior.sample(10)
    assert states.shape == (10, 3, 2)
    assert actions.shape == (10, 2)
    assert actions.dtype == torch.int64
    taken = posterior.details["particles"].expect(lambda values: values["a_1"])
    assert float(taken) == pytest.approx((moment(2) + moment(3)) / (4 * pushes), abs=0.1)
