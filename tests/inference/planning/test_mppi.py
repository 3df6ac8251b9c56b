"""Path-integral control: its weights are those of the exact target; plans reach their bars; policies plan anew."""

import copy
import dataclasses
import math
import pickle

import numpy as np
import pytest
import torch
from gaussian_oracle import conditioned, random_numbers
from particle_checks import is_unbiased
from planning_problems import as_model, planning_model
from pyro.distributions import Uniform

import cai
from cai.inference import InferenceError, NotKnown
from cai.inference.core.status import Status
from cai.inference.planning.bundle import Noise
from cai.inference.planning.mppi import PathIntegral
from cai.models import ContinuousModel, LinearNormal
from cai.models.continuous.simulate import DivergedRollout


def mild(seed, *, noisy=True):
    """A linear problem whose optimality is not rare, from a certain start."""
    numbers = random_numbers(seed, largest=(2, 1, 3), noisy=noisy)
    K0, k0, L = numbers.prior
    return dataclasses.replace(numbers, S1=0 * numbers.S1, alpha=20.0, prior=(K0, k0, 0 * L + np.eye(L.shape[-1])))


def bundles(model, count, size, plan=0.0, scales=(1.0,), **options):
    """Bundles around a constant plan, and the weighted mean of the first action over all of them with its error."""
    sampler = PathIntegral(num_samples=size, lookahead=100, **options).sampler(model)
    sampler = dataclasses.replace(sampler, scales=scales)
    around = torch.full((sampler.lookahead, model.action_dim), plan).double()
    found = sampler.draw(sampler.problem.start.expand(count, -1), around, 0, torch.Generator().manual_seed(1))
    weights = found.log_weights.flatten().softmax(0)
    first = found.actions[..., 0, :].flatten(0, 1)
    mean = weights @ first
    return found, mean, (weights.square() @ (first - mean).square()).sqrt()


WAYS = {
    "the prior's noise": {},
    "a plan": {"plan": 0.3},
    "wider noise": {"noise": 1.3, "plan": 0.2},
    "correlated noise": {"noise": 1.2, "correlation": 0.3},
    "noise of two sizes": {"noise": 1.2, "plan": 0.2, "scales": (1.0, 0.5)},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", [0, 3])
def test_weights_are_those_of_the_exact_target(seed, way):
    numbers = mild(seed)
    truth = conditioned(numbers)
    found, mean, error = bundles(as_model(numbers), 300, 400, **WAYS[way])
    assert is_unbiased(found.log_evidence, truth.log_evidence, tests=10)
    first, _ = truth.moments(("a", 0))
    assert ((mean - torch.as_tensor(first)).abs() <= 6 * error).all()
    assert float(found.effective_sample_size.mean()) > 10


def test_a_shift_of_the_priors_own_noise_is_the_path_integrals_ratio():
    numbers = mild(0)
    model = as_model(numbers)
    found, _, _ = bundles(model, 1, 50, plan=0.3)
    K0, k0, L = (torch.as_tensor(part) for part in numbers.prior)
    total = torch.zeros(50).double()
    for t in range(len(K0)):
        off = found.actions[0, :, t] - found.states[0, :, t] @ K0[t].T - k0[t]
        shift, inverse = torch.full((len(k0[t]),), 0.3).double(), torch.linalg.inv(L[t])
        total = total - off @ inverse @ shift + shift @ inverse @ shift / 2
    rewards = torch.zeros(50).double()
    for t in range(len(K0)):
        z = torch.cat([found.states[0, :, t], found.actions[0, :, t]], -1)
        rewards -= 0.5 * torch.einsum("ki,ij,kj->k", z, torch.as_tensor(numbers.C[t]), z)
        rewards -= z @ torch.as_tensor(numbers.g[t]) + numbers.const[t]
    last = found.states[0, :, -1]
    rewards -= 0.5 * torch.einsum("ki,ij,kj->k", last, torch.as_tensor(numbers.Qf), last)
    rewards -= last @ torch.as_tensor(numbers.qf) + numbers.constf
    torch.testing.assert_close(found.log_weights[0], rewards / numbers.alpha + total, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.5)])
def test_a_flat_prior_is_weighed_by_the_noise_itself(scales):
    """The same numbers as in a model whose prior is that noise."""
    spread = 0.8
    numbers = dataclasses.replace(mild(0), prior=None)
    m = numbers.B.shape[-1]
    proper = as_model(numbers, action_prior=LinearNormal(L=spread**2 * np.eye(m)))
    options = {"plan": 0.4, "scales": scales, "noise": spread, "correlation": 0.0}
    flat, _, _ = bundles(as_model(numbers), 2, 50, **options)
    other, _, _ = bundles(proper, 2, 50, **options)
    torch.testing.assert_close(flat.actions, other.actions)
    torch.testing.assert_close(flat.log_weights, other.log_weights, rtol=1e-9, atol=1e-9)


def test_correlated_noise_has_the_spread_of_a_step_and_the_density_of_a_chain():
    root = torch.linalg.cholesky(torch.tensor([[1.0, 0.3], [0.3, 0.5]]).double()).expand(3, 2, 2)
    noise = Noise(root, 0.6)
    drawn, fresh = noise.draw((20_000,), torch.Generator().manual_seed(0))
    flat = drawn.flatten(1)
    covariance = torch.block_diag(*root) @ torch.block_diag(*root).T
    lags = 0.6 ** (torch.arange(3)[:, None] - torch.arange(3)).abs()
    covariance = torch.kron(lags.double(), root[0] @ root[0].T)
    torch.testing.assert_close(flat.T @ flat / len(flat), covariance, atol=0.06, rtol=0)
    torch.testing.assert_close(noise.whitened(drawn), fresh)
    exact = torch.distributions.MultivariateNormal(torch.zeros(6).double(), covariance).log_prob(flat[:5])
    torch.testing.assert_close(noise.log_density(fresh[:5]), exact)


def test_noise_of_two_sizes_has_the_density_of_their_mixture():
    root = torch.full((3, 1, 1), 1.7).double()
    noise = Noise(root, 0.5, (1.0, 0.25))
    drawn, fresh = noise.draw((6,), torch.Generator().manual_seed(0))
    torch.testing.assert_close(noise.whitened(drawn), fresh)
    covariance = 1.7**2 * (0.5 ** (torch.arange(3)[:, None] - torch.arange(3)).abs()).double()
    zero = torch.zeros(3).double()
    each = [
        torch.distributions.MultivariateNormal(zero, b**2 * covariance).log_prob(drawn[..., 0]) for b in noise.scales
    ]
    torch.testing.assert_close(noise.log_density(fresh, noise.scales), torch.stack(each).logsumexp(0) - math.log(2))
    assert drawn[1::2].abs().mean() < 0.5 * drawn[::2].abs().mean()


BARS = {"pendulum": 47.7, "cart-pole": 67.0, "dubins": 9.7}


def is_there(name, state):
    """Upright, or at the goal."""
    if name == "dubins":
        return float((state[0] - 5) ** 2 + state[1] ** 2) < 1
    return float(torch.cos(state[0 if name == "pendulum" else 1])) > 0.85


@pytest.mark.parametrize("name", BARS)
def test_plans_reach_their_bars(name):
    answer = cai.infer(planning_model(name), "mppi")
    assert answer.details["cost"] <= BARS[name]
    assert is_there(name, answer.plan.states[-1])
    assert "is flat" in answer.details["prior"]
    assert "fewer than 10 samples" in answer.details["note"]
    assert answer.log_evidence is None


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", BARS)
def test_policies_reach_the_bars_in_closed_loop(name, seed):
    model = planning_model(name)
    policy = cai.extract_policy(cai.infer(model, "mppi", seed=seed))
    generator = torch.Generator().manual_seed(seed)
    state, total = model.reset(2, generator), 0.0
    for t in range(model.horizon):
        state, reward, _ = model.step(state, policy.act(state, t, generator=generator), t, generator)
        total = total + reward
    assert (total >= -BARS[name]).all()
    assert all(is_there(name, row) for row in state)


def short(**changes):
    return planning_model("pendulum", horizon=6, **changes)


def test_a_seed_gives_the_same_plan_and_another_seed_another():
    first, again, other = (cai.infer(short(), "mppi", num_samples=50, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.plan.actions, again.plan.actions)
    assert not torch.equal(first.plan.actions, other.plan.actions)


def test_the_plan_costs_what_it_says():
    model = short()
    answer = cai.infer(model, "mppi", num_samples=50)
    state, total = answer.plan.states[:1], 0.0
    for t in range(6):
        state, reward, _ = model.step(state, answer.plan.actions[t : t + 1], t)
        total += float(reward)
    assert answer.details["cost"] == pytest.approx(-total)
    torch.testing.assert_close(state[0], answer.plan.states[-1])


def test_the_evidence_is_given_where_enough_samples_count():
    numbers = mild(0)
    answer = cai.infer(as_model(numbers), "mppi", num_samples=4000, seed=3)
    assert float(answer.log_evidence) == pytest.approx(conditioned(numbers).log_evidence, abs=0.1)
    assert cai.infer(as_model(numbers), "mppi", lookahead=1).log_evidence is None
    assert cai.infer(as_model(numbers), "mppi", temperature=5.0).log_evidence is None


def test_a_policy_plans_anew_in_the_state_that_it_sees():
    policy = cai.extract_policy(cai.infer(short(), "mppi", num_samples=200))
    states = torch.tensor([[math.pi, 0.0], [0.3, 0.0], [-0.3, 0.0]]).double()
    actions = policy.act(states, 0, generator=torch.Generator().manual_seed(0))
    assert actions.shape == (3, 1)
    assert actions[1] < 0 < actions[2]  # towards upright from either side
    one = policy.act(states[1], 0, generator=torch.Generator().manual_seed(0))
    assert one.shape == (1,)
    bundle = policy.bundle(states[1], 2, generator=torch.Generator().manual_seed(0))
    assert bundle.states.shape == (200, 5, 2)
    assert float(bundle.weights.sum()) == pytest.approx(1.0)
    with pytest.raises(NotKnown, match=r"does not know densities.*'ilqr'"):
        policy.log_prob(actions, states)
    with pytest.raises(ValueError, match="time index 6 is outside the policy, which knows steps 0 to 5"):
        policy.act(states, 6)
    with pytest.raises(ValueError, match=r"got states of shape \[3\]; expected \[2\]"):
        policy.act(torch.zeros(3), 0)


def test_the_plan_can_be_played_in_open_loop_and_named():
    answer = cai.infer(short(), "mppi", num_samples=50)
    policy = cai.extract_policy(answer, "plan")
    torch.testing.assert_close(policy.act(torch.randn(3, 2).double(), 4), answer.plan.actions[4].expand(3, 1))
    table = answer.to_xarray()
    assert dict(table.sizes) == {"time": 7, "state": 2, "step": 6, "action": 1}
    assert table.attrs["backend"] == "mppi"
    with pytest.raises(ValueError, match="kind is 'best'; expected one of stochastic, greedy, plan"):
        answer.policy("best")


def test_answers_and_policies_travel(tmp_path):
    answer = cai.infer(as_model(mild(0)), "mppi", num_samples=30)
    sent = (pickle.loads(pickle.dumps(answer)), copy.deepcopy(answer), cai.load(answer.save(tmp_path / "answer")))
    policy = cai.extract_policy(answer)
    state = answer.plan.states[0]
    acted = policy.act(state, 1, generator=torch.Generator().manual_seed(4))
    for other in sent:
        assert torch.equal(other.plan.states, answer.plan.states)
        assert torch.equal(other.sample(3, seed=1).actions, answer.sample(3, seed=1).actions)
        found = cai.extract_policy(other).act(state, 1, generator=torch.Generator().manual_seed(4))
        assert torch.equal(found, acted)
    kept = cai.load(policy.save(tmp_path / "policy"))
    assert torch.equal(kept.act(state, 1, generator=torch.Generator().manual_seed(4)), acted)


def test_a_policy_whose_model_is_code_asks_for_it_again(tmp_path):
    model = short()
    answer = cai.infer(model, "mppi", num_samples=30)
    kept = cai.load(cai.extract_policy(answer).save(tmp_path / "policy"))
    with pytest.raises(NotKnown, match=r"policy.with_model\(model\)"):
        kept.act(torch.zeros(2), 0)
    generators = [torch.Generator().manual_seed(4) for _ in range(2)]
    here = kept.with_model(model).act(torch.zeros(2), 0, generator=generators[0])
    assert torch.equal(here, cai.extract_policy(answer).act(torch.zeros(2), 0, generator=generators[1]))
    stored = cai.load(answer.save(tmp_path / "answer"))
    assert stored.model is None
    with pytest.raises(NotKnown, match="infer again"):
        stored.sample(2)


def test_a_run_that_was_cut_off_ends_with_the_same_bits(tmp_path):
    model = as_model(mild(3))
    whole = cai.infer(model, "mppi", num_samples=30, seed=5)
    cut = cai.infer(model, "mppi", num_samples=30, seed=5, folder=tmp_path / "run", max_seconds=0.0, throw=False)
    assert cut.status is Status.NOT_CONVERGED
    assert torch.equal(cai.resume(tmp_path / "run", model=model).plan.actions, whole.plan.actions)


def test_terminal_states_are_not_left_and_pay_nothing():
    def step(s, a, t):
        return s + 1 + 0 * a

    model = ContinuousModel(
        torch.zeros(1).double(),
        step,
        lambda s, a, t: torch.ones_like(s[..., 0]),
        5,
        LinearNormal(L=[[1.0]]),
        final_reward=lambda s: 100 + 0 * s[..., 0],
        terminal=lambda s: s[..., 0] >= 2,
    )
    sampler = PathIntegral(num_samples=3).sampler(model)
    found = sampler.draw(torch.zeros(1).double(), torch.zeros(5, 1).double(), 0, torch.Generator())
    assert found.states[0, :, 0].tolist() == [0, 1, 2, 2, 2, 2]
    torch.testing.assert_close(found.log_weights, torch.full((3,), 2.0).double())


def test_what_diverges_is_not_converged_with_its_step():
    model = planning_model("pendulum", horizon=30).replace(dynamics=lambda s, a, t: s * 1e30 + 1)
    with pytest.raises(InferenceError, match=r"not converged.*left the finite numbers") as caught:
        cai.infer(model, "mppi", num_samples=10)
    assert 0 < caught.value.posterior.details["step"] < 30
    with pytest.raises(DivergedRollout):
        caught.value.posterior.policy().act(torch.ones(2), 0)


REFUSED = {
    "num_samples": (0, "num_samples is 0; give a whole number of at least 1"),
    "lookahead": (2.5, "lookahead is 2.5; give a whole number of at least 1"),
    "temperature": (-1.0, "temperature is -1.0; expected a number > 0, or None"),
    "noise": (True, "noise is True; expected a number > 0"),
    "correlation": (1.0, r"correlation is 1.0; expected a number in \[0, 1\)"),
}


@pytest.mark.parametrize("option", REFUSED)
def test_options_are_refused_by_name(option):
    value, message = REFUSED[option]
    with pytest.raises(ValueError, match=message):
        PathIntegral(**{option: value})


@pytest.mark.parametrize(
    ("backend", "options", "advice"),
    [
        ("mppi", {"num_samples": 10**11}, "lower num_samples or lookahead"),
        ("ilqr", {"restarts": 10**11}, "lower restarts"),
    ],
)
def test_what_does_not_fit_into_memory_is_refused_before_it_begins(backend, options, advice):
    with pytest.raises(MemoryError, match=advice):
        cai.infer(short(), backend, **options)


def test_models_are_refused_with_what_fits():
    with pytest.raises(ValueError, match=r"'mppi' plans in a ContinuousModel.*'exact' or 'variational'"):
        cai.infer(cai.models.bridge(), "mppi")
    with pytest.raises(ValueError, match=r"the discount 0.9 makes chains end at random there.*'ilqr' or 'smc'"):
        cai.infer(short(discount=0.9), "mppi")
    numbers = mild(0)
    batch = as_model(numbers, initial=(torch.zeros(3, 2).double(), numbers.S1))
    with pytest.raises(ValueError, match=r"a batch of shape \[3\]"):
        cai.infer(batch, "mppi")


def boxed(**changes):
    """To the origin by actions in [-1, 1], a uniform prior that Pyro refuses to read elsewhere."""
    start = torch.tensor([2.0]).double()
    return ContinuousModel(
        start,
        lambda s, a, t: s + 0.3 * a,
        lambda s, a, t: -s.square().sum(-1) - 0.1 * a.square().sum(-1),
        8,
        lambda s, t: Uniform(-torch.ones_like(s), 1.0).to_event(1),
        **changes,
    )


def test_a_prior_on_a_box_is_none_elsewhere():
    planned = cai.infer(boxed(), "mppi")
    assert bool((planned.plan.actions.abs() < 1).all())
    assert planned.plan.actions[0] < -0.3
    acted = cai.extract_policy(planned).act(torch.tensor([2.0]))
    assert -1 < float(acted) < 0


@pytest.mark.parametrize("backend", ["ilqr", "aico"])
def test_starts_outside_of_a_box_are_not_converged(backend):
    assert cai.infer(boxed(), backend, noise=3.0, throw=False).status is Status.NOT_CONVERGED


def test_means_that_stand_still_where_actions_are_forbidden_are_no_success():
    answer = cai.infer(boxed(), "aico", noise=0.1, throw=False)
    assert (answer.status, answer.details["step"]) == (Status.NOT_CONVERGED, 0)
    assert "forbidden at time index 0" in answer.details["why"]
