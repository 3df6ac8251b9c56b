"""Particles: sequential Monte Carlo and importance sampling, held against exact answers."""

import itertools
import math

import numpy as np
import pytest
import torch
from campaigns import over_seeds
from methods import FAILURE_RATE
from oracle import exact, random_problem
from particle_checks import estimates, is_unbiased, narrow, small
from refusals import check, holds_no_nan
from scipy.stats import kstest

import cai
import cai.inference.particles.particles as particles_module
from cai.inference import Status, SumProduct
from cai.inference.particles.particles import systematic
from cai.inference.particles.program_system import ReplaySystem
from cai.inference.particles.smc import ImportanceSampling, SequentialMonteCarlo
from cai.inference.particles.table_system import TableSystem
from cai.inference.tabular.backward import backward
from cai.inference.tabular.recursion import EXACT
from cai.models import MDP, TrajectoryModel
from cai.models.programs.inspect import inspect_program
from cai.models.trajectory.simulate import inverse_cdf


def soft_values(model):
    values = backward(model, EXACT).values
    table = torch.cat([values, torch.zeros(len(values), 1, dtype=torch.float64)], 1)
    return lambda states, t: table[t][states]


SETTINGS = list(itertools.product((0.0, 0.5, 1.0), (False, True)))


@pytest.mark.parametrize(("threshold", "looks_ahead"), SETTINGS)
@over_seeds(range(7), quick=2, blocks=1)
def test_the_evidence_is_unbiased(threshold, looks_ahead, seeds):
    turn, tried = SETTINGS.index((threshold, looks_ahead)), 0
    problems = [seed for number in seeds if (seed := turn % 3 + 3 * number) < 20]
    for seed in problems:  # every problem is tried with two of the settings
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
    assert tried >= (5 if len(problems) > 5 else 1)


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
        if not all("particles" in run.details for run in runs):
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
@over_seeds(range(60), quick=20)
def test_answers_hold_together(backend, seeds):
    """The bound stays below the evidence and decomposes; marginals are the particles'; other rows keep the prior."""
    tried = 0
    for seed in seeds:
        problem = random_problem(seed)
        truth, got = SumProduct().run(problem.model), backend.run(problem.model, seed=seed)
        if not truth.status.ok:
            assert got.status is Status.IMPOSSIBLE
            assert float(got.log_evidence) == -math.inf
            assert float(got.elbo) == -math.inf
            continue
        tried += 1
        assert got.status in (Status.SUCCESS, Status.FEW_PARTICLES)
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
    assert tried > len(seeds) * 2 / 3


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
        assert float(answer.policy_divergence) == pytest.approx(float(truth.policy_divergence), abs=0.05)


# ---- hard cases -----------------------------------------------------------------------------------------------------


def test_particles_that_all_die():
    model = narrow(10)
    few = SequentialMonteCarlo(5, lookahead=None)
    posterior = few.run(model)
    assert posterior.status is Status.DEGENERATE
    assert "soft-value" in str(posterior.status)
    assert float(posterior.log_evidence) == float(posterior.elbo) == -math.inf
    assert posterior.details["ess"][-1] == 0
    assert "particles" not in posterior.details
    assert torch.equal(posterior.action_probs, model.action_prior.expand(10, -1, -1))
    holds_no_nan(posterior)
    check(lambda: posterior.sample(3), ValueError, r"degenerate.*raise num_particles")
    check(lambda: posterior.log_prob([[0] * 11], [[0] * 10]), ValueError, r"degenerate")
    with pytest.raises(cai.InferenceError, match="raise num_particles"):
        cai.infer(model, few)
    assert SequentialMonteCarlo(5).run(as_program(model)).status is Status.DEGENERATE
    assert float(SequentialMonteCarlo(5).run(as_program(model)).log_evidence) == -math.inf
    blind = SequentialMonteCarlo(5, lookahead=lambda states, t: torch.full(states.shape, -math.inf))
    assert blind.run(small()).status is Status.DEGENERATE
    enough = SequentialMonteCarlo(3000, lookahead=None).run(model)
    assert enough.status is Status.SUCCESS
    assert float(enough.log_evidence) == pytest.approx(10 - 10 * math.log(40), abs=1.5)


def test_soft_values_save_particles_from_a_trap():
    """State 1 can not be left, and is forbidden at the very end only: values see it coming, weights do not."""
    mdp = MDP([[[0.5, 0.5]], [[0.0, 1.0]]], [1.0, 0.0])

    def reward(state, action, next_state, t):
        return torch.where((t == 11) & (next_state == 1), -math.inf, 0.0)

    model = TrajectoryModel(mdp, reward, 12)
    want = 12 * math.log(0.5)
    assert SequentialMonteCarlo(60, lookahead=None).run(model, seed=1).status is Status.DEGENERATE
    guided = SequentialMonteCarlo(60, lookahead="soft-value").run(model, seed=1)
    assert guided.status is Status.SUCCESS
    assert is_unbiased(estimates(TableSystem(model), 100, 40, 1.0, soft_values(model)), want)
    own = SequentialMonteCarlo(60, lookahead=lambda states, t: torch.where(states == 1, -math.inf, 0.0))
    assert own.run(model, seed=1).status is Status.SUCCESS
    assert float(guided.believed_return) == 0.0


@pytest.mark.parametrize("lookahead", [None, "soft-value"])
def test_long_horizons_stay_finite(lookahead):
    problem = random_problem(8, horizon=3, reward="sas", forbidden=False, terminals=0.0)
    model = problem.model.replace(horizon=300, discount=1.0)
    truth = SumProduct().run(model)
    got = SequentialMonteCarlo(500, lookahead=lookahead).run(model, seed=1)
    assert got.details["resamplings"] > 20
    assert min(got.details["ess"]) > 1
    assert math.isfinite(float(got.elbo))
    assert float(got.log_evidence) == pytest.approx(float(truth.log_evidence), abs=8.0)
    assert float(got.elbo) <= float(truth.log_evidence)
    naive = ImportanceSampling(500).run(model, seed=1)
    assert naive.details["ess"][-1] < 20
    assert float(naive.log_evidence) < float(got.log_evidence)


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_huge_rewards(size):
    model = small(reward=[size, -size], horizon=5)
    for backend in (SequentialMonteCarlo(200), SequentialMonteCarlo(200, lookahead="soft-value")):
        got = backend.run(model)
        assert got.status is Status.SUCCESS
        assert float(got.log_evidence) == pytest.approx(float(SumProduct().run(model).log_evidence), rel=1e-3)
        holds_no_nan(got)


@pytest.mark.parametrize("discount", [1.0, 0.6])
def test_one_of_everything(discount):
    model = TrajectoryModel(MDP([[[1.0]]], [1.0]), 0.7, 1, discount=discount)
    for backend in (SequentialMonteCarlo(1), SequentialMonteCarlo(3, lookahead="soft-value"), ImportanceSampling(1)):
        got = backend.run(model)
        assert float(got.log_evidence) == pytest.approx(0.7, abs=1e-12)
        assert got.action_probs.tolist() == [[[1.0]]]
    program = SequentialMonteCarlo(1).run(as_program(model))
    assert float(program.log_evidence) == pytest.approx(0.7, abs=1e-6)


def test_thousands_of_states_are_never_made_dense(monkeypatch):
    size, horizon = 5000, 12
    here = torch.arange(size)
    following = torch.stack([torch.stack([(here + step) % size, here], -1) for step in (1, -1)], 1)
    mdp = MDP.from_successors(following, torch.tensor([0.8, 0.2]).expand(size, 2, 2), torch.ones(size) / size)
    model = TrajectoryModel(mdp, torch.sin(here / 50.0).double(), horizon, discount=0.97)

    def refused(self, weights):
        raise AssertionError("a table [S, A, S] was asked for")

    monkeypatch.setattr(MDP, "to_next_states", refused)
    truth = SumProduct().run(model)
    got = SequentialMonteCarlo(2000, lookahead="soft-value").run(model)
    assert float(got.log_evidence) == pytest.approx(float(truth.log_evidence), abs=0.5)
    for posterior in (got, truth):
        states, actions = posterior.sample(50, seed=1)
        assert torch.isfinite(posterior.log_prob(states, actions)).all()


# ---- parts ----------------------------------------------------------------------------------------------------------


def test_systematic_resampling_takes_every_particle_as_often_as_it_weighs():
    log_weights = torch.tensor([0.0, -math.inf, 2.0, -800.0, 1.0, -math.inf], dtype=torch.float64)
    weights = log_weights.softmax(0)
    counts = torch.zeros(6, dtype=torch.float64)
    points = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    for point in points:
        taken = systematic(log_weights, point).bincount(minlength=6)
        assert (taken - 6 * weights).abs().max() < 1
        counts += taken / len(points)
    assert torch.allclose(counts, 6 * weights, atol=2e-3)
    assert counts[[1, 3, 5]].tolist() == [0.0, 0.0, 0.0]


def test_every_resampling_draws_a_uniform_number_of_its_own(monkeypatch):
    """Exchangeable particles hide a fixed number from every test of the evidence."""
    drawn = []

    def spy(log_weights, uniform):
        drawn.append(float(uniform))
        return systematic(log_weights, uniform)

    monkeypatch.setattr(particles_module, "systematic", spy)
    estimates(TableSystem(small(horizon=4)), 50, 5, 1.0)
    assert len(set(drawn)) == len(drawn) == 200
    assert kstest(drawn, "uniform").pvalue > FAILURE_RATE


def test_points_at_the_edge_fall_on_weight():
    cumulative = torch.tensor([0.0, 0.0, 1.0, 1.0, 3.0, 3.0], dtype=torch.float64)
    low, high = torch.tensor([0.0, 0.0, 1.0]).double(), torch.tensor([1.0, 3.0, 3.0]).double()
    assert inverse_cdf(cumulative, low, high, torch.zeros(3).double()).tolist() == [2, 2, 4]
    assert inverse_cdf(cumulative, low, high, torch.full((3,), 1 - 2**-53).double()).tolist() == [2, 4, 4]


def test_particles_answer_questions():
    particles = SequentialMonteCarlo(300).run(small(horizon=4)).details["particles"]
    assert particles.num_particles == 300
    assert float(particles.weights.sum()) == pytest.approx(1.0)
    assert 1 <= particles.ess <= 300
    assert float(particles.expect(lambda values: values["s_1"] + 1)) == pytest.approx(1.0)
    equal = particles.resample(50, seed=1)
    assert equal.states.shape == (50, 5)
    assert equal.ess == pytest.approx(50)
    assert float(equal.log_evidence) == pytest.approx(float(particles.log_evidence))
    assert "N=300" in repr(particles)
    check(lambda: particles.resample(0), ValueError, r"num_samples is 0")
    check(lambda: particles.expect(lambda values: torch.zeros(3)), ValueError, r"shape \[3\].*N = 300")
