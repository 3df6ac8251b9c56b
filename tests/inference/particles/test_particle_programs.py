"""Particles of programs: where factors belong, continuous sites with known answers, and what is refused."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from example_programs import MOVE, PRIOR, REWARD, START, drawn_at_the_end, drawn_first, persistent, windy
from gaussian_programs import gaussian, gaussian_posterior, gaussian_prior
from particle_checks import estimates, is_unbiased, small
from refusals import check, holds_no_nan, refuse

import cai
from cai.inference import NotKnown, Status
from cai.inference.particles.particles import move_particles
from cai.inference.particles.program_system import ReplaySystem
from cai.inference.particles.smc import ImportanceSampling, SequentialMonteCarlo
from cai.models.programs.inspect import inspect_program


@pytest.mark.parametrize("kind", [drawn_at_the_end, drawn_first, windy, persistent], ids=lambda kind: kind.__name__)
def test_factors_belong_to_their_steps_wherever_the_program_writes_them(kind):
    """Broken off at every action or run at once, a trajectory weighs the sum of its factors, each at its step."""
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


def gaussian_evidence(horizon):
    """Log E exp(-z' Q z / 2), by completing the square."""
    mean, covariance, prices = gaussian_prior(horizon)
    inner = np.eye(len(mean)) + covariance @ prices
    return -0.5 * np.linalg.slogdet(inner)[1] - 0.5 * mean @ prices @ np.linalg.solve(inner, mean)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("guided", [False, True])
def test_a_linear_gaussian_program(threshold, guided):
    horizon = 3
    log_evidence, (mean, _) = gaussian_evidence(horizon), gaussian_posterior(horizon)
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
    check(lambda: posterior.action_probs, NotKnown, r"does not know action_probs.*continuous")
    assert posterior.luck is posterior.elbo is None
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


def test_exact_zeros_of_float32_programs():
    """What Categorical(probs=...) and Bernoulli would clamp to 1e-7 stays impossible."""

    def program():
        state = pyro.sample("s_1", dist.Categorical(probs=torch.tensor([0.5, 0.5, 0.0])))
        action = pyro.sample("a_1", dist.Categorical(probs=torch.tensor([1.0, 0.0])))
        pyro.sample("O_1", dist.Bernoulli(torch.tensor([0.5, 0.0, 1.0])[state]), obs=torch.tensor(1.0))
        pyro.factor("extra", 0.0 * action)

    posterior = ImportanceSampling(4000).run(program)
    assert set(posterior.details["particles"].states[:, 0].tolist()) == {0, 1}
    weights = posterior.details["particles"].log_weights
    assert set(weights.exp().tolist()) == {0.0, 0.5}
    assert posterior.state_marginals[0].tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-9)


def test_a_state_that_is_a_bernoulli_is_counted():
    def program():
        state = pyro.sample("s_1", dist.Bernoulli(0.25))
        for t in pyro.markov(range(1, 3)):
            action = pyro.sample(f"a_{t}", dist.Bernoulli(0.5))
            state = pyro.sample(f"s_{t + 1}", dist.Bernoulli(0.2 + 0.5 * action * state))
            pyro.factor(f"O_{t}", state)

    truth, got = cai.infer(program, "enumeration"), SequentialMonteCarlo(20_000).run(program)
    assert got.details["particles"].states.dtype == torch.int64
    assert torch.allclose(got.state_marginals, truth.state_marginals, atol=0.03)
    assert torch.isfinite(truth.log_prob(*got.sample(20))).all()


@pytest.mark.parametrize("backend", [SequentialMonteCarlo(80), ImportanceSampling(80)], ids=lambda b: b.name)
@pytest.mark.parametrize(
    "question", [small(horizon=4), persistent(3), gaussian(3)], ids=["model", "program", "gaussian"]
)
def test_seeds_decide_and_nothing_global_moves(backend, question):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second = backend.run(question, seed=3), backend.run(question, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not list(pyro.get_param_store().keys())
    left, right = first.details["particles"], second.details["particles"]
    assert torch.equal(left.log_weights, right.log_weights)
    assert all(torch.equal(left.values[name], right.values[name]) for name in left.values)
    other = backend.run(question, seed=4).details["particles"]
    assert not torch.equal(left.states, other.states)


def test_parameters_of_a_program_are_read_and_left_alone():
    def program():
        bonus = pyro.param("bonus", torch.tensor(0.25, dtype=torch.float64))
        pyro.sample("s_1", dist.Categorical(torch.ones(2)))
        pyro.sample("a_1", dist.Categorical(torch.ones(2)))
        pyro.factor("O_1", bonus)

    assert float(SequentialMonteCarlo(10).run(program).log_evidence) == pytest.approx(0.25)
    assert "bonus" not in pyro.get_param_store()


def test_factors_before_the_first_action_weigh_the_start():
    """A fact about s_1 alone, and a further latent drawn between a state and its action."""

    def program():
        state = pyro.sample("s_1", dist.Categorical(START))
        pyro.factor("seen", torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)[state])
        for t in pyro.markov(range(1, 4)):
            mood = pyro.sample(f"mood_{t}", dist.Bernoulli(0.5))
            action = pyro.sample(f"a_{t}", dist.Categorical(PRIOR[state]))
            following = pyro.sample(f"s_{t + 1}", dist.Categorical(MOVE[state, action]))
            pyro.deterministic(f"note_{t}", mood * 2)
            pyro.factor(f"O_{t}", REWARD[state, action, following] + mood)
            pyro.factor(f"more_{t}", -mood)
            state = following

    truth = float(cai.infer(program, "enumeration").log_evidence)
    system = ReplaySystem(program, inspect_program(program))
    for threshold in (0.0, 1.0):
        assert is_unbiased(estimates(system, 60, 60, threshold), truth, 2)
    assert torch.allclose(system.start(50), system.values()["s_1"].double())
    posterior = SequentialMonteCarlo(500).run(program)
    assert posterior.details["ess"][0] < 499
    assert set(posterior.details["particles"].values) == set(inspect_program(program).latents)


def test_what_a_program_notes_keeps_its_value():
    def program():
        state = pyro.sample("s_1", dist.Categorical(torch.tensor([0.5, 0.5])))
        action = pyro.sample("a_1", dist.Categorical(torch.tensor([0.5, 0.5])))
        pyro.factor("O_1", pyro.deterministic("both", 2.0 * state + action))

    want = math.log((1 + math.exp(2)) * (1 + math.exp(1)) / 4)
    assert float(ImportanceSampling(20_000).run(program).log_evidence) == pytest.approx(want, abs=0.05)


def test_a_program_that_cannot_be_enumerated_is_sampled_all_the_same():
    """Forty steps without pyro.markov run out of dimensions; the particles, their samples and shares are there."""

    def program():
        state = pyro.sample("s_1", dist.Categorical(START))
        for t in range(1, 41):
            action = pyro.sample(f"a_{t}", dist.Categorical(PRIOR[state]))
            state = pyro.sample(f"s_{t + 1}", dist.Categorical(MOVE[state, action]))
            pyro.factor(f"O_{t}", -0.1 * state.double())

    posterior = SequentialMonteCarlo(200).run(program)
    assert posterior.status is Status.SUCCESS
    assert "markov" in posterior.details["tables"]
    states, actions = posterior.sample(5)
    assert states.shape == (5, 41)
    assert actions.dtype == torch.int64
    assert math.isfinite(float(posterior.believed_return))


# ---- refusals -------------------------------------------------------------------------------------------------------


def walk(score, state=lambda: dist.Normal(torch.zeros(3), 1.0).to_event(1), action=lambda s: dist.Normal(0.0, 1.0)):
    def program():
        start = pyro.sample("s_1", state())
        taken = pyro.sample("a_1", action(start))
        pyro.factor("O_1", score(start, taken))

    return lambda: ImportanceSampling(10).supports(program)


def masked():
    state = pyro.sample("s_1", dist.Normal(0.0, 1.0))
    with pyro.poutine.scale(scale=0.5):
        pyro.sample("a_1", dist.Normal(state, 1.0))
    pyro.factor("O_1", state)


def late():
    """Both actions are drawn before the second state."""
    state = pyro.sample("s_1", dist.Normal(0.0, 1.0))
    pyro.sample("a_1", dist.Normal(0.0, 1.0))
    pyro.sample("a_2", dist.Normal(0.0, 1.0))
    pyro.factor("O_1", pyro.sample("s_2", dist.Normal(state, 1.0)))


def guided(function):
    return lambda: SequentialMonteCarlo(10, lookahead=function).run(small(horizon=3))


@refuse(
    {
        "no particles": (lambda: SequentialMonteCarlo(0), r"num_particles is 0.*>= 1"),
        "half a particle": (lambda: ImportanceSampling(1.5), r"num_particles is 1\.5"),
        "true particles": (lambda: ImportanceSampling(True), r"num_particles is True"),
        "threshold": (lambda: SequentialMonteCarlo(ess_threshold=50), r"ess_threshold is 50.*\[0, 1\]"),
        "threshold nan": (lambda: SequentialMonteCarlo(ess_threshold=math.nan), r"ess_threshold is nan"),
        "threshold text": (lambda: SequentialMonteCarlo(ess_threshold="0.5"), r"ess_threshold is '0\.5'"),
        "lookahead": (lambda: SequentialMonteCarlo(lookahead="values"), r"lookahead is 'values'.*'soft-value'"),
        "endless": (
            lambda: SequentialMonteCarlo().supports(small(horizon=math.inf, discount=0.5)),
            r"infinite.*horizon=N.*'exact'",
        ),
        "endless importance": (
            lambda: ImportanceSampling().run(small(horizon=math.inf, discount=0.5)),
            r"'importance'.*infinite",
        ),
        "values of a program": (
            lambda: SequentialMonteCarlo(lookahead="soft-value").supports(persistent(2)),
            r"soft values off the tables.*function",
        ),
        "lookahead shape": (guided(lambda states, t: torch.zeros(3)), r"shape \[3\] at time index 0; expected \[10\]"),
        "lookahead nan": (guided(lambda states, t: states / 0.0 * 0.0), r"NaN or \+inf at time index 0"),
        "lookahead inf": (guided(lambda states, t: states + math.inf), r"NaN or \+inf"),
        "summed over particles": (walk(lambda s, a: -(s**2).sum()), r"site 'O_1' scores.*sum over dim=-1"),
        "indexed from the left": (walk(lambda s, a: s[0]), r"\[\.\.\., i\]"),
        "branches": (walk(lambda s, a: 1.0 if a > 0 else 0.0), r"torch\.where"),
        "no event": (walk(lambda s, a: a, lambda: dist.Normal(torch.zeros(3), 1.0)), r"\.to_event\(1\)"),
        "score nan": (walk(lambda s, a: a * math.nan), r"(NaN|nan)"),
        "score inf": (walk(lambda s, a: torch.full_like(a, math.inf)), r"site 'O_1' scores \+inf"),
        "scaled latent": (lambda: ImportanceSampling().supports(masked), r"'a_1' is scaled or masked"),
        "late state": (
            lambda: SequentialMonteCarlo(lookahead=lambda s, t: -s.abs()).run(late),
            r"needs s_2 before a_2 is drawn",
        ),
        "no program": (lambda: SequentialMonteCarlo().supports(3), TypeError, r"expected a TrajectoryModel"),
    }
)
def test_what_cannot_be_sampled_is_refused(build, error, pattern):
    check(build, error, pattern)


def test_late_states_are_no_obstacle_without_a_lookahead():
    posterior = SequentialMonteCarlo(4000).run(late)
    assert float(posterior.log_evidence) == pytest.approx(1.0, abs=0.3)
