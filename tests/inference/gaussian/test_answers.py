"""The backends of tables on a linear-Gaussian model: the same names and numbers, and what a Gaussian answer can do."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from gaussian_models import as_model, integrator, random_model
from gaussian_oracle import conditioned, random_numbers
from particle_checks import estimates, is_unbiased

import cai
from cai.inference import InferenceError, NotKnown, Status
from cai.inference.particles.particles import move_particles
from cai.inference.particles.program_system import ReplaySystem
from cai.inference.particles.smc import _log_psi
from cai.inference.particles.world_system import WorldSystem
from cai.models import Flat, LinearNormal, QuadraticReward, double_integrator
from cai.models.programs.inspect import inspect_program

SUMS = ("exact", "optimistic")


def account(answer):
    alpha = answer.temperature
    return answer.believed_return / alpha - answer.policy_divergence - answer.luck


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_backends_agree_with_the_conditioned_trajectory_and_with_each_other(seed, flat):
    numbers, model = random_model(seed, flat=flat)
    whole, exact = conditioned(numbers), cai.infer(model, "exact")
    assert float(exact.log_evidence) == pytest.approx(whole.log_evidence, rel=1e-9)
    assert exact.log_evidence == exact.elbo
    for t, found in ((1, exact.marginal("s_1")), (model.horizon + 1, exact.marginal(f"s_{model.horizon + 1}"))):
        mean, covariance = whole.moments(("s", t - 1))
        assert np.allclose(found.mean, mean, rtol=0, atol=1e-9 * max(1, np.abs(mean).max()))
        assert np.allclose(found.covariance, covariance, rtol=0, atol=1e-9 * max(1, np.abs(covariance).max()))
    mean, _ = whole.moments(("a", 0))
    assert np.allclose(exact.marginal("a_1").mean, mean, rtol=0, atol=1e-9 * max(1, np.abs(mean).max()))
    fixed = cai.infer(model, "variational")
    assert fixed.log_evidence is None
    assert fixed.luck == 0
    assert fixed.elbo <= exact.log_evidence
    assert float(cai.infer(model, "optimistic").log_evidence) == float(exact.log_evidence)
    for eta, same in ((1.0, exact), (0.0, fixed)):
        dial = cai.infer(model, "risk", eta=eta)
        assert dial.details["start"] == pytest.approx(float(same.elbo), rel=1e-10)
        assert float(dial.elbo) == pytest.approx(float(same.elbo), rel=1e-9)
        assert torch.equal(dial.gain(0), same.gain(0))
    for answer in (exact, fixed):
        assert float(account(answer)) == pytest.approx(float(answer.elbo), rel=1e-10)
    if flat:
        assert float(exact.policy_divergence) == -float(exact.policy_entropy)


def test_values_and_q_values_are_soft_backups_of_each_other():
    answer = cai.infer(integrator(), "exact")
    model, alpha = answer.model, answer.temperature
    state = torch.tensor([0.7, -0.3], dtype=torch.float64)
    grid = torch.linspace(-9, 9, 20001, dtype=torch.float64)[:, None]
    for t in (0, 4, 9):
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(grid[:, 0])
        inside = prior + answer.q_value(state, grid, t) / alpha
        backed = alpha * (torch.logsumexp(inside, 0) + math.log(float(grid[1] - grid[0])))
        assert float(backed) == pytest.approx(float(answer.value(state, t)), rel=1e-9)
        density = inside - answer.value(state, t) / alpha
        policy = answer.policy().log_prob(grid, state.expand(len(grid), -1), t)
        assert torch.allclose(density, policy, atol=1e-9, rtol=1e-9)
    P, p, rho = answer.message(10)
    assert torch.equal(P, 10 * torch.eye(2, dtype=torch.float64))
    assert float(answer.value(state, 10)) == pytest.approx(-float(state @ P @ state / 2 + p @ state + rho))
    fixed, generator = cai.infer(model, "variational"), torch.Generator().manual_seed(0)
    action = torch.tensor([0.4], dtype=torch.float64)
    moved = model.step(state.expand(200_000, -1), action.expand(200_000, -1), 3, generator)
    sampled = moved.rewards + fixed.value(moved.next_states, 4)
    error = float(sampled.std()) / math.sqrt(len(sampled))
    assert abs(float(sampled.mean()) - float(fixed.q_value(state, action, 3))) < 5 * error


def test_samples_follow_the_marginals_and_densities_the_account():
    answer = cai.infer(integrator(), "exact")
    drawn = answer.sample(40_000, seed=1)
    assert drawn.states.shape == (40_000, 11, 2)
    assert drawn.actions.shape == (40_000, 10, 1)
    for t in (1, 5, 11):
        mean, covariance = answer.marginal(f"s_{t}")
        states = drawn.states[:, t - 1]
        assert (states.mean(0) - mean).abs().max() < 5 * covariance.diagonal().max().sqrt() / 200
        assert (states.T.cov() - covariance).abs().max() < 0.02 * covariance.max() * 5
    assert torch.equal(answer.sample(3, seed=1).states, answer.sample(3, seed=1).states)
    scores = answer.log_prob(drawn.states, drawn.actions)
    model, prior = answer.model, 0.0
    for t in range(10):
        here, then, chosen = drawn.states[:, t], drawn.states[:, t + 1], drawn.actions[:, t]
        prior = prior + model.transition(here, chosen, t).log_prob(then) + model.prior(here, t).log_prob(chosen)
        prior = prior + model.paid(here, chosen, then, t) / model.temperature
    prior = prior + model.start_distribution().log_prob(drawn.states[:, 0])
    assert torch.allclose(prior - scores, answer.log_evidence.expand_as(scores), atol=1e-8)  # Bayes, draw by draw


def test_policies_act_score_and_travel(tmp_path):
    answer = cai.infer(integrator(), "variational")
    policy = cai.extract_policy(answer)
    states = torch.randn(5, 2, dtype=torch.float64)
    mean = states @ answer.gain(2).T + answer.offset(2)
    assert torch.allclose(policy.mean(states, 2), mean)
    assert torch.equal(policy.act(states, 2, deterministic=True), policy.mean(states, 2))
    generator = torch.Generator().manual_seed(0)
    many = policy.act(states[:1].expand(50_000, -1), 2, generator=generator)
    assert float(many.var()) == pytest.approx(float(answer.covariance(2)), rel=0.05)
    greedy = cai.extract_policy(answer, "greedy")
    assert torch.equal(greedy.act(states, 2), policy.mean(states, 2))
    with pytest.raises(NotKnown, match="singular"):
        greedy.log_prob(mean, states, 2)
    plan = cai.extract_policy(answer, "plan")
    assert torch.allclose(plan.act(states, 2), answer.marginal("a_3").mean.expand(5, 1))
    with pytest.raises(ValueError, match="stochastic, greedy, plan"):
        answer.policy("best")
    with pytest.raises(ValueError, match="steps 0 to 9"):
        policy.act(states, 10)
    with pytest.raises(ValueError, match=r"expected \[\.\.\., 2\]"):
        policy.mean(states[:, :1], 0)
    policy.save(tmp_path / "policy")
    read = cai.load(tmp_path / "policy")
    assert torch.equal(read.mean(states, 2), policy.mean(states, 2))


def test_answers_travel_without_gradients(tmp_path):
    temperature = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    answer = cai.infer(integrator(temperature=temperature), "exact")
    answer.log_evidence.backward(retain_graph=True)
    assert temperature.grad is not None
    answer.save(tmp_path / "answer")
    for other in (copy.deepcopy(answer), pickle.loads(pickle.dumps(answer)), cai.load(tmp_path / "answer")):
        assert not other.log_evidence.requires_grad
        assert float(other.luck) == pytest.approx(float(answer.luck.detach()), rel=1e-12)
        assert torch.equal(other.gain(3), answer.gain(3).detach())
        assert torch.equal(other.sample(4, seed=2).states, answer.sample(4, seed=2).states)


@pytest.mark.parametrize("backend", ["exact", "variational", "risk:eta=-0.1"])
def test_answers_travel_after_everything_was_looked_at(backend, tmp_path):
    """What an answer computed and held with gradients does not stop copies of it."""
    temperature = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    answer = cai.infer(integrator(temperature=temperature), backend)
    wanted = [answer.sample(4, seed=2).states, answer.gain(3), answer.covariance(3), answer.marginal("s_2").mean]
    wanted += [answer.luck, answer.believed_return, answer.value(torch.zeros(2).double(), 1)]
    answer.save(tmp_path / "answer")
    for other in (copy.deepcopy(answer), pickle.loads(pickle.dumps(answer)), cai.load(tmp_path / "answer")):
        found = [other.sample(4, seed=2).states, other.gain(3), other.covariance(3), other.marginal("s_2").mean]
        found += [other.luck, other.believed_return, other.value(torch.zeros(2).double(), 1)]
        for now, before in zip(found, wanted, strict=True):
            assert not now.requires_grad
            torch.testing.assert_close(now, before.detach(), rtol=1e-12, atol=1e-14)


def test_luck_has_the_same_bits_after_a_file_as_before(tmp_path):
    """What is stored lies in memory as what was found: products in another order round otherwise."""
    for seed in range(8):
        _, model = random_model(seed, largest=(4, 3, 8))
        answer = cai.infer(model, "exact")
        steps = answer.luck_by_step()
        again = cai.load(answer.save(tmp_path / "answer"))
        assert torch.equal(again.luck, answer.luck)
        assert torch.equal(again.luck_by_step(), steps)


def test_gradients_of_accounts_are_those_of_the_evidence():
    temperature = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    answer = cai.infer(integrator(temperature=temperature), "exact")
    (direct,) = torch.autograd.grad(answer.log_evidence, temperature, retain_graph=True)
    (added,) = torch.autograd.grad(account(answer), temperature)
    assert float(added) == pytest.approx(float(direct), rel=1e-8)
    # d log Z / d alpha = -E[return] / alpha^2
    assert float(direct) == pytest.approx(-float(answer.believed_return.detach()) / 4, rel=1e-9)


def test_named_axes():
    frame = cai.infer(integrator(), "exact").to_xarray()
    assert frame["gain"].dims == ("step", "action", "state")
    assert frame["state_mean"].shape == (11, 2)
    assert frame.attrs["backend"] == "exact"


def test_max_product_is_the_mean_of_the_exact_answer():
    numbers = random_numbers(3)
    model = as_model(numbers)
    mode, exact = cai.infer(model, "max-product"), cai.infer(model, "exact")
    T = model.horizon
    for site in ("s_1", f"a_{T}", f"s_{T + 1}"):
        assert torch.allclose(mode.marginal(site).mean, exact.marginal(site).mean, rtol=1e-9, atol=1e-9)
        assert not mode.marginal(site).covariance.any()
    drawn = mode.sample(2)
    assert torch.equal(drawn.states[0], drawn.states[1])
    rewards = sum(model.paid(drawn.states[0, t], drawn.actions[0, t], drawn.states[0, t + 1], t) for t in range(T))
    assert float(mode.believed_return) == pytest.approx(float(rewards), rel=1e-9)
    assert mode.elbo is None


def test_batches_lead_everywhere():
    model = integrator(
        temperature=2.0, noise=torch.eye(2).double()[None, None] * torch.tensor([0.01, 0.02, 0.1])[:, None, None, None]
    )
    answer = cai.infer(model, "exact")
    assert answer.log_evidence.shape == (3,)
    assert answer.gain(0).shape == (3, 1, 2)
    assert answer.marginal("s_4").covariance.shape == (3, 2, 2)
    assert answer.sample(5).states.shape == (5, 11, 3, 2)
    assert answer.value(torch.zeros(2), 0).shape == (3,)
    for b in range(3):
        alone = cai.infer(model.member(b), "exact")
        assert float(answer.luck[b]) == pytest.approx(float(alone.luck), rel=1e-10)
    assert "T=10" in repr(answer)
    assert answer._repr_html_()


def test_tables_are_not_known_and_say_what_is():
    answer = cai.infer(integrator(), "exact")
    for name in ("values", "q_values", "action_probs", "state_marginals"):
        with pytest.raises(NotKnown, match=r"value\(s, t\)"):
            getattr(answer, name)
    certain = cai.infer(integrator(noise=None), "exact")
    with pytest.raises(NotKnown, match="singular"):
        certain.log_prob(*certain.sample(2))
    with pytest.raises(ValueError, match="no latent site 's_12'"):
        answer.marginal("s_12")
    with pytest.raises(IndexError, match="0 to 9"):
        answer.gain(10)
    with pytest.raises(TypeError, match="criterion"):
        float(answer.gain)
    with pytest.raises(ValueError, match=r"s has shape \[7, 2\] and a \[3, 1\]; .*for each pair"):
        answer.q_value(torch.zeros(7, 2), torch.zeros(3, 1), 0)
    assert answer.q_value(torch.zeros(7, 1, 2), torch.zeros(1, 3, 1), 0).shape == (7, 3)
    with pytest.raises(ValueError, match="ask 'variational', or give horizon=N and no discount"):
        cai.infer(double_integrator(horizon=math.inf, discount=0.9), "exact")


def test_a_breakdown_is_a_status_with_step_eigenvalue_and_critical_eta():
    with pytest.raises(InferenceError, match=r"infinite.*at step 9.*below eta = -0\.458"):
        cai.infer(integrator(), "risk", eta=-500)
    answer = cai.infer(integrator(), "risk", eta=-500, throw=False)
    assert answer.status is Status.INFINITE
    assert answer.details["step"] == 9
    assert answer.details["eigenvalue"] == pytest.approx(1 - 500 / 2 * 0.01 * 10)
    critical = answer.details["eta_crit"]
    assert cai.infer(integrator(), "risk", eta=critical * (1 - 1e-4)).status.ok
    assert not cai.infer(integrator(), "risk", eta=critical * (1 + 1e-4), throw=False).status.ok
    assert answer.log_evidence is None
    assert answer.luck is None
    for ask in (
        lambda: answer.gain(0),
        lambda: answer.sample(1),
        lambda: answer.policy(),
        lambda: answer.value([0, 0], 0),
    ):
        with pytest.raises(ValueError, match="infinite"):
            ask()
    unbounded = integrator(reward=QuadraticReward(R=-3.0 * torch.eye(1)))
    found = cai.infer(unbounded, "variational", throw=False)
    assert (found.status, found.details["failed"], found.details["step"]) == (Status.INFINITE, "action", 9)
    assert "eta_crit" not in found.details


@pytest.mark.parametrize(
    ("backend", "changes", "text"),
    [
        ("exact", {"discount": 0.9}, "'variational'.*'smc'.*discretize"),
        ("risk", {"discount": 0.9}, "discretize"),
        ("max-product", {"discount": 0.9}, "discretize"),
        ("optimistic", {"horizon": math.inf, "reward": None}, "ask 'variational', or give horizon=N"),
        ("variational", {"horizon": math.inf, "reward": None}, "criterion='average'"),
        ("risk:eta=inf", {}, "finite eta"),
        ("value-iteration", {}, "'exact', 'variational'.*discretize"),
        ("boltzmann", {}, "discretize"),
        ("enumeration", {}, "discretize"),
        ("variational:solver=svi", {}, "leave it out"),
    ],
)
def test_refusals_name_a_remedy(backend, changes, text):
    with pytest.raises(ValueError, match=text):
        cai.infer(integrator(**changes), backend)


def test_flat_models_are_no_programs():
    model = integrator(action_prior=Flat())
    for ask in (model, lambda: cai.infer(model, "smc"), lambda: cai.infer(model, "importance")):
        with pytest.raises(ValueError, match=r"Flat\(\)"):
            ask()


def test_particles_estimate_the_same_evidence():
    model = integrator(reward=QuadraticReward(final=(60 * torch.eye(2),)), temperature=1.0)
    exact = cai.infer(model, "exact")
    ahead = cai.infer(model, "smc", num_particles=4000, seed=3)
    blind = cai.infer(model, "smc", num_particles=4000, seed=3, lookahead=None)
    assert ahead.ess[-1] > 3 * blind.ess[-1]
    for found in (ahead, blind):
        assert abs(float(found.log_evidence - exact.log_evidence)) < 5 * found.details["log_evidence_error"]
    assert float(ahead.believed_return) == pytest.approx(float(exact.believed_return), abs=0.4)


@pytest.mark.parametrize("kind", [ReplaySystem, WorldSystem])
@pytest.mark.parametrize("lookahead", ["auto", None])
def test_the_evidence_of_particles_is_unbiased(lookahead, kind):
    model = integrator(horizon=3, action_prior=LinearNormal(K0=[[-0.2, -0.3]], k0=[0.1], L=[[0.5]]))
    truth = float(cai.infer(model, "exact").log_evidence)
    log_psi, system = _log_psi(model, lookahead), kind(model, inspect_program(model))
    count = 30 if kind is ReplaySystem else 150  # the one runs the Pyro program, the other the simulator
    assert is_unbiased(estimates(system, count, 60, 0.9, log_psi), truth, tests=4)


def test_particles_of_a_discounted_model_end_with_it():
    model = integrator(discount=0.7, horizon=6)
    found = {}
    for kind in (ReplaySystem, WorldSystem):
        system = kind(model, inspect_program(model))
        run = move_particles(system, num_particles=1500, ess_threshold=0, log_psi=None, seed=1)
        particles = run.particles
        assert set(particles.values) == set(inspect_program(model).latents)
        ended = particles.values["alive_4"] == 0
        states = particles.values
        assert torch.equal(states["s_5"][ended], states["s_4"][ended])
        found[kind] = float(run.log_evidence), run.log_evidence_error
    (one, first), (other, second) = found.values()
    assert abs(one - other) < 5 * math.hypot(first, second)
