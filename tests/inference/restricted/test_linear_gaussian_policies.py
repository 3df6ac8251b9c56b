"""Linear-Gaussian policies on linear-Gaussian models: the exact bound, and what its best policy is worth."""

import math
import pickle

import pytest
import torch
from campaigns import over_seeds
from gaussian_models import as_model, integrator, random_model
from gaussian_oracle import as_problem, random_numbers
from linear_policies import bound
from refusals import check, refuse

import cai
from cai.inference import GaussianPosterior, InferenceError, LinearGaussianPolicy, RestrictedVariational, Status
from cai.models import Flat, LinearGaussianModel, LinearNormal, QuadraticReward, pendulum


def fitted(model, **options):
    return cai.infer(model, "restricted", **options)


def near(found, wanted, tolerance=1e-6):
    size = torch.as_tensor(wanted).abs().clamp(min=1.0)
    assert bool(((found - wanted).abs() <= tolerance * size).all()), (found, wanted)


@over_seeds(range(100), quick=6)
def test_it_ends_at_the_elbo_of_variational(seeds):
    """Cross terms, affine parts, matrices over time; Flat() or a prior; with a discount or none."""
    for seed in seeds:
        numbers = random_numbers(seed, flat=seed % 3 == 0, singular=seed % 5 == 0)
        model = as_model(numbers, discount=1.0 if seed % 2 else 0.8)
        best, found = cai.infer(model, "variational"), fitted(model)
        near(found.elbo, best.elbo, 1e-9)
        near(found.believed_return / model.temperature - found.policy_divergence, found.elbo, 1e-9)
        assert found.log_evidence is None
        assert float(found.luck) == 0
        for t in (0, model.steps - 1):
            torch.testing.assert_close(found.gain(t), best.gain(t), rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(found.covariance(t), best.covariance(t), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("discount", [1.0, 0.7])
@pytest.mark.parametrize("seed", [2, 7, 9])
def test_no_stationary_policy_nearby_is_worth_more(seed, discount):
    """Against a search on a bound that is written out elsewhere, begun at the answer and away from it."""
    numbers = random_numbers(seed, flat=seed == 9, largest=(3, 2, 5))
    problem, (T, n, m) = as_problem(numbers), numbers.sizes
    found = fitted(as_model(numbers, discount=discount), policy=LinearGaussianPolicy(stationary=True))
    root = torch.linalg.cholesky(found.covariance(0))
    root = root.tril(-1) + torch.diag(root.diagonal().log())
    parts = [found.gain(0).clone(), found.offset(0).clone(), root]
    for t in range(T):
        assert torch.equal(found.gain(t), found.gain(0))

    def value(gain, offset, root):
        return bound(problem, gain.expand(T, m, n), offset.expand(T, m), root.expand(T, m, m), discount)

    near(value(*parts), found.elbo, 1e-9)
    generator = torch.Generator().manual_seed(seed)
    for away in (0.0, 0.03):
        leaves = [part + away * torch.randn(part.shape, generator=generator).double() for part in parts]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        search = torch.optim.LBFGS(leaves, max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

        def loss(search=search, leaves=leaves):
            search.zero_grad()
            negative = -value(*leaves)
            negative.backward()
            return negative

        search.step(loss)
        near(value(*leaves).detach(), found.elbo)


def test_classes_are_ordered():
    for seed in range(6):
        _, model = random_model(seed)
        best = float(cai.infer(model, "variational").elbo)
        free, tied = (
            float(fitted(model, policy=LinearGaussianPolicy(stationary)).elbo) for stationary in (False, True)
        )
        assert tied <= free + 1e-9 * abs(free)
        assert free == pytest.approx(best, rel=1e-9)


def test_one_step_has_no_time_to_share():
    numbers = random_numbers(5, largest=(3, 2, 1))
    model = as_model(numbers)
    near(fitted(model, policy="linear-gaussian(stationary=true)").elbo, cai.infer(model, "variational").elbo, 1e-9)


@pytest.mark.parametrize("stationary", [False, True])
def test_a_batch_is_each_of_its_members(stationary):
    two = torch.eye(2, dtype=torch.float64)
    scale = torch.tensor([0.5, 1.0, 3.0]).double()[:, None, None, None]
    model = integrator(noise=0.05 * scale * two, reward=QuadraticReward(Q=scale * two, R=[[0.1]], q=[0.3, 0.0]))
    found = fitted(model, policy=LinearGaussianPolicy(stationary))
    assert found.elbo.shape == (3,)
    for i in range(3):
        alone = fitted(model.member(i), policy=LinearGaussianPolicy(stationary))
        near(found.elbo[i], alone.elbo, 1e-8)
        torch.testing.assert_close(found.gain(3)[i], alone.gain(3), rtol=1e-4, atol=1e-4)


def test_narrow_priors_keep_their_digits():
    """A prior whose gain is large beside what the policy adds to it."""
    numbers = random_numbers(3, largest=(3, 2, 6))
    K0, k0, L = numbers.prior
    numbers.prior = (100 * K0, k0, 1e-9 * L)
    model = as_model(numbers)
    near(fitted(model).elbo, cai.infer(model, "variational").elbo, 1e-9)


def test_numbers_relative_to_da_say_so():
    model = integrator(action_prior=Flat())
    found = fitted(model)
    assert "relative to da" in found.details["note"]
    near(found.policy_divergence, -found.policy_entropy, 1e-12)


def test_rewards_without_bound_have_no_best_policy():
    model = integrator(reward=QuadraticReward(Q=-torch.eye(2).double(), R=[[1e-3]]), action_prior=Flat())
    assert cai.infer(model, "variational", throw=False).status is Status.INFINITE
    found = fitted(model, throw=False)
    assert found.status is Status.INFINITE
    assert found.elbo is None
    assert found.details["eigenvalue"] < 0
    assert found.details["step"] == cai.infer(model, "variational", throw=False).details["step"]
    with pytest.raises(ValueError, match="no posterior"):
        found.policy()
    assert fitted(model, policy=LinearGaussianPolicy(True), throw=False).status is Status.INFINITE


def test_numbers_beyond_floats_are_told():
    model = LinearGaussianModel(
        [[1e6]],
        [[1.0]],
        initial=[1.0],
        horizon=60,
        reward=QuadraticReward(Q=[[1.0]]),
        action_prior=LinearNormal(L=[[1]]),
    )
    found = fitted(model, throw=False)
    assert found.status is Status.OUT_OF_RANGE
    assert found.elbo is None


def test_the_answer_is_a_gaussian_one(tmp_path):
    model = integrator()
    found = fitted(model)
    assert isinstance(found, GaussianPosterior)
    states, actions = found.sample(20_000, seed=1)
    scores = found.log_prob(states, actions)
    best = cai.infer(model, "variational")
    torch.testing.assert_close(scores, best.log_prob(states, actions), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.marginal("a_3").mean, best.marginal("a_3").mean, rtol=1e-6, atol=1e-6)
    policy = cai.extract_policy(found)
    exact = cai.evaluate(policy, model)
    near(torch.as_tensor(exact.expected_return, dtype=torch.float64), found.believed_return.detach(), 1e-9)
    policy.save(tmp_path / "policy.safetensors")
    found.save(tmp_path / "answer")
    for copy in (pickle.loads(pickle.dumps(found)), cai.load(tmp_path / "answer")):
        assert torch.equal(copy.elbo, found.elbo)
        assert torch.equal(copy.policy().gain, cai.load(tmp_path / "policy.safetensors").gain)
    with pytest.raises(ValueError, match="does not know messages"):
        found.value([0.0, 0.0], 0)


def test_compare_asks_it_by_name():
    frame = cai.compare(integrator(), ["variational", "restricted", "restricted:policy=linear-gaussian"]).to_frame()
    assert (frame.status == "success").all()
    assert frame.elbo.max() - frame.elbo.min() < 1e-9
    assert frame.real_return_error.isna().all()


def test_it_can_be_cut_off_and_gone_on_with(tmp_path):
    _, model = random_model(1, largest=(3, 2, 5))
    options = {"policy": LinearGaussianPolicy(True), "throw": False}
    whole = fitted(model, **options)
    cut = fitted(model, **options, folder=tmp_path / "run", max_iterations=7)
    assert cut.status is Status.NOT_CONVERGED
    assert float(cut.elbo) < float(whole.elbo)
    assert cut.details["history"] == whole.details["history"][:8]
    resumed = cai.resume(tmp_path / "run", max_iterations=1000)
    assert torch.equal(resumed.elbo, whole.elbo)
    assert torch.equal(resumed.gain(0), whole.gain(0))
    assert list(whole.details["history"]) == sorted(whole.details["history"])


BAD = {
    "no truth value": (lambda: LinearGaussianPolicy(stationary=1), TypeError, "expected True or False"),
    "tables": (
        lambda: cai.infer(cai.models.bridge(), "restricted", policy=LinearGaussianPolicy()),
        r"continuous actions, and here they are numbered; use StationaryPolicy",
    ),
    "numbered actions": (
        lambda: fitted(integrator(), policy="tabular"),
        "TabularPolicy is about numbered states.*LinearGaussianPolicy",
    ),
    "infinite": (
        lambda: fitted(integrator(horizon=math.inf, discount=0.9, reward=QuadraticReward(R=[[1.0]]))),
        "answer of 'variational'",
    ),
    "closed on tables": (lambda: cai.infer(cai.models.bridge(), "restricted", gradient="closed"), "'enumerated'"),
    "enumerated": (lambda: fitted(integrator(), gradient="enumerated"), "numbered states"),
    "closed on a pendulum": (lambda: fitted(pendulum(), gradient="closed"), "LinearGaussianModel"),
    "unknown gradient": (lambda: RestrictedVariational(gradient="best"), "expected one of auto"),
    "status": (lambda: fitted(integrator(), max_iterations=1), InferenceError, "not converged"),
}


@refuse(BAD)
def test_bad_questions(build, error, pattern):
    check(build, error, pattern)
