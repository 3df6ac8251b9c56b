"""Rewards of continuous models: exact where all is Gaussian, by the Laplace approximation elsewhere."""

import math
import sys

import numpy as np
import pytest
import torch
from inverse_oracle import differences, tensor
from methods import FAILURE_RATE
from scipy.special import gammainc, gammaincc

import cai
from cai.inference import IterativeLQR
from cai.inference.planning.local_optima import local_optima
from cai.inference.planning.read_model import planning_problem
from cai.inverse import ContinuousDemonstrations, FitError, FitStatus, fit
from cai.inverse.continuous.task import gaussian_task
from cai.models import ContinuousModel, Flat, LinearGaussianModel, LinearNormal, QuadraticReward, cart_pole, pendulum

WEIGHTS = {"place": 1.5, "effort": 0.7, "end": 4.0}


def cart(horizon=6, *, prior=None, discount=1.0, weights=WEIGHTS):
    """A cart with noise; place and effort are paid at each step, the end once; an offset and a base cost stay."""
    features = {
        "place": QuadraticReward(Q=[[1.0, 0.1], [0.1, 0.2]], q=[0.3, 0.0]),
        "effort": QuadraticReward(R=[[1.0]], N=[[0.0], [0.1]]),
        "end": QuadraticReward(final=([[1.0, 0.0], [0.0, 0.5]], [0.2, 0.0])),
    }
    base = QuadraticReward(R=[[0.2]], r=[0.05])
    model = LinearGaussianModel(
        A=[[1.0, 0.3], [0.0, 0.9]],
        B=[[0.0], [0.4]],
        noise=[[0.02, 0.0], [0.0, 0.05]],
        offset=[0.01, 0.0],
        initial=([1.0, 0.0], [[0.3, 0.0], [0.0, 0.1]]),
        horizon=horizon,
        temperature=0.4,
        discount=discount,
        reward=base,
        action_prior=Flat() if prior is None else prior,
    )
    paid = gaussian_task(model, zeros(model), features, "likelihood").problem.model(tensor(list(weights.values())))
    return model, features, paid


def zeros(model):
    shape = (1, int(model.horizon) + 1, model.state_dim)
    return ContinuousDemonstrations(torch.zeros(shape), torch.zeros(1, int(model.horizon), model.action_dim))


def shown(paid, n=40, seed=0):
    return ContinuousDemonstrations(*cai.infer(paid, "variational").sample(n, seed=seed))


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("prior", [None, LinearNormal(K0=[[0.1, -0.2]], k0=[0.05], L=[[0.5]])])
def test_the_likelihood_is_that_of_the_policy(prior, discount):
    model, features, paid = cart(prior=prior, discount=discount)
    drawn = shown(paid.replace(discount=1.0), 5)
    asked = gaussian_task(model, drawn, features, "likelihood").objective
    policy = cai.infer(paid, "variational").policy()
    want = sum(policy.log_prob(drawn.actions[:, t], drawn.states[:, t], t) for t in range(6))
    found = asked.log_probs(tensor(list(WEIGHTS.values())))
    np.testing.assert_allclose(found, want, rtol=1e-10)


@pytest.mark.parametrize("prior", [None, LinearNormal(K0=[[0.1, -0.2]], k0=[0.05], L=[[0.5]])])
def test_scores_and_hessians_follow_from_values(prior):
    model, features, paid = cart(prior=prior)
    drawn = shown(paid, 5)
    drawn = ContinuousDemonstrations(drawn.states, drawn.actions, weights=np.linspace(0.5, 2.0, 5))
    asked = gaussian_task(model, drawn, features, "likelihood").objective
    at = tensor([1.1, 0.9, 3.0])

    def both(place):
        value, slope = asked.evaluate(tensor(place))
        return np.array([value, *slope.tolist()])

    found = differences(both, at, 1e-3)
    np.testing.assert_allclose(asked.evaluate(at)[1], found[:, 0], rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(asked.hessian(at), found[:, 1:], rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(asked.weights @ asked.scores(at), found[:, 0], rtol=1e-7, atol=1e-8)
    alone = gaussian_task(model, drawn.select([2]), features, "likelihood").objective
    np.testing.assert_allclose(alone.evaluate(at)[1], asked.weights[2] * asked.scores(at)[2], rtol=1e-9)


def test_coefficients_are_found_again():
    model, features, paid = cart()
    drawn = shown(paid, 100)
    est = fit(model, drawn, features=features)
    assert est.status is FitStatus.SUCCESS
    apart = (est.coefficients - np.array(list(WEIGHTS.values()))) / est.standard_errors
    assert (apart.abs() < 4.5).all()
    assert est.num_choices == 600
    assert est.log_prob(drawn).sum() == pytest.approx(est.log_likelihood)
    assert isinstance(est.model(), LinearGaussianModel)
    assert len(est.sample(3)) == 3
    again = fit(model, (drawn.states, drawn.actions), features=features, start=dict(est.coefficients))
    np.testing.assert_allclose(again.coefficients, est.coefficients, rtol=1e-6)


def test_entries_that_require_grad_are_learned():
    _, _, paid = cart()
    drawn = shown(paid, 60)
    cost = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    open_model = paid.replace(reward=QuadraticReward(Q=cost, R=[[0.9]], N=[[0.0], [0.07]], q=[0.45, 0.0], r=[0.05]))
    est = fit(open_model, drawn)
    assert list(est.coefficients.index) == ["Q[0, 0]", "Q[0, 1]", "Q[1, 1]"]
    fitted = est.model().reward.Q
    np.testing.assert_allclose(fitted, fitted.T)
    assert float(fitted[0, 1]) == pytest.approx(est.coefficients["Q[0, 1]"])


def test_the_approximation_is_exact_where_all_is_linear_and_quadratic():
    model, features, paid = cart(prior=LinearNormal(K0=[[0.1, -0.2]], k0=[0.05], L=[[0.5]]))
    drawn = shown(paid, 4)

    def dynamics(s, a, t):
        mean = s @ model.A.T + a @ model.B.T + model.offset
        root = torch.linalg.cholesky(model.noise)
        return torch.distributions.MultivariateNormal(mean, scale_tril=root)

    def reward(term):
        whole = term.fitted(2, 1, 6)

        def step(s, a, t):
            cost = (s @ whole.Q * s).sum(-1) / 2 + (a @ whole.R * a).sum(-1) / 2 + (s @ whole.N * a).sum(-1)
            return -cost - s @ whole.q - a @ whole.r

        def last(s):
            return -(s @ whole.final[0] * s).sum(-1) / 2 - s @ whole.final[1]

        return step, last

    import pyro.distributions as dist

    def noisy(s, a, t):
        found = dynamics(s, a, t)
        return dist.MultivariateNormal(found.mean, scale_tril=found.scale_tril)

    start = dist.MultivariateNormal(model.initial.mean, model.initial.covariance)
    base = reward(model.reward)[0]
    written = ContinuousModel(start, noisy, base, 6, model.action_prior, temperature=0.4)
    named = {name: reward(term) for name, term in features.items()}
    exact = gaussian_task(model, drawn, features, "likelihood").objective
    near = gaussian_task(written, drawn, named, "likelihood").objective
    for place in ([1.5, 0.7, 4.0], [0.4, 2.0, 1.0]):
        at = tensor(place)
        np.testing.assert_allclose(near.log_probs(at), exact.log_probs(at), rtol=1e-8)
        np.testing.assert_allclose(near.evaluate(at)[1], exact.evaluate(at)[1], rtol=1e-7, atol=1e-9)
        # What is expected of the Hessian: it is quadratic in each action, so two of them, a deviation apart, tell.
        policy = cai.infer(exact.model(at), "variational").policy()
        means = torch.stack([policy.mean(drawn.states[:, t], t) for t in range(6)], 1)
        widths = policy.covariance.diagonal(dim1=-2, dim2=-1).sqrt().expand_as(means)
        sides = [ContinuousDemonstrations(drawn.states, means + sign * widths) for sign in (-1, 1)]
        want = sum(gaussian_task(model, side, features, "likelihood").objective.hessian(at) for side in sides) / 2
        np.testing.assert_allclose(near.hessian(at), want, rtol=1e-6, atol=1e-8)


def swing(temperature, start, count, horizon=10, seed=0, **changes):
    """(pendulum without rewards, draws of `ilqr`, costs in units of the zoo's, what was drawn from)."""
    h, model = 0.05, pendulum(horizon=horizon, temperature=temperature)
    model = model.replace(initial=tensor([start, 0.0]), **changes)
    features = {
        "height": lambda s, a, t: -h * 5.0 * (1 - torch.cos(s[..., 0])),
        "speed": lambda s, a, t: -h * 0.05 * s[..., 1].square(),
        "effort": lambda s, a, t: -h * 0.05 * a.square().sum(-1),
    }
    answer = cai.infer(model, IterativeLQR(tolerance=1e-14))
    drawn = ContinuousDemonstrations(*answer.sample(count, seed=seed))
    return model.replace(reward=lambda s, a, t: 0.0 * s.sum(-1)), drawn, features, answer


@pytest.mark.parametrize(("temperature", "start", "count"), [(1e-2, math.pi, 3)])
def test_the_likelihood_of_demonstrations_is_that_of_the_planner(temperature, start, count):
    """The motor is driven far into its limit, so that dynamics bend; derivatives follow the plan as it moves."""
    model, drawn, features, answer = swing(temperature, start, count)
    asked = gaussian_task(model, drawn, features, "likelihood").objective
    policy = answer.policy()
    want = sum(policy.log_prob(drawn.actions[:, t], drawn.states[:, t], t) for t in range(10))
    np.testing.assert_allclose(asked.log_probs(torch.ones(3).double()), want, rtol=1e-4)
    at = tensor([1.0, 1.1, 1.02])
    found = differences(lambda w: asked.log_probs(tensor(w)).numpy(), at, 1e-3)
    np.testing.assert_allclose(asked.scores(at), found.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(asked.evaluate(at)[1], asked.scores(at).sum(0), rtol=1e-12)


@pytest.mark.parametrize(("temperature", "start", "count"), [(1e-6, 0.05, 10), (1e-5, math.pi, 3)])
def test_costs_of_the_pendulum_are_found_again(temperature, start, count):
    model, drawn, features, _ = swing(temperature, start, count)
    est = fit(model, drawn, features=features)
    assert est.status is FitStatus.SUCCESS
    assert ((est.coefficients - 1).abs() < 4 * est.standard_errors).all(), est.to_frame()
    assert abs(est.coefficients["effort"] - 1) < 0.3
    assert est.log_prob(drawn.select([0]))[0] == pytest.approx(float(est.log_prob(drawn)[0]))
    height, speed, effort = features.values()
    paid = {"height": height, "speed": speed, "energy": lambda s, a, t: -2 * effort(s, a, t)}  # which nobody wants
    other = fit(model, drawn, features=paid)
    assert other.coefficients["energy"] == pytest.approx(-est.coefficients["effort"] / 2, rel=1e-4)


@pytest.mark.campaign
def test_intervals_of_the_costs_of_a_pendulum_cover():
    """Over 8 sets of demonstrations that swing up, errors in units of standard errors have mean 0 and variance 1."""
    scaled = []
    for seed in range(8):
        model, drawn, features, _ = swing(1e-2, math.pi, 10, horizon=40, seed=seed)
        est = fit(model, drawn, features=features)
        scaled.append(((est.coefficients - 1) / est.standard_errors).to_numpy())
    scaled = np.array(scaled)
    assert (np.abs(scaled.mean(0)) < 4 / math.sqrt(8)).all()
    spread = (scaled**2).sum(0)
    assert ((gammainc(4, spread / 2) > FAILURE_RATE) & (gammaincc(4, spread / 2) > FAILURE_RATE)).all()


@pytest.mark.campaign
def test_costs_of_the_cart_pole_are_found_again():
    """Best plans swing twice; between noisy demonstrations and them lie saddles, which `ilqr` leaves by tiny steps."""
    h, model = 0.05, cart_pole()
    rough = cai.infer(model, IterativeLQR(restarts=1, tolerance=1e-4)).plan.actions
    begin = torch.tensor([[0.0, math.pi, 0.0, 0.0]], dtype=torch.float64)
    best = local_optima(planning_problem(model), begin, rough[None], damped=800)
    answer = cai.infer(model, IterativeLQR(restarts=1, tolerance=1e-9, warm_start=best.actions[0]))
    drawn = ContinuousDemonstrations(*answer.sample(5, seed=0))

    def upright(s):
        return 1 - torch.cos(s[..., 1])

    def squares(s, *weights):
        return sum(weight * s[..., i].square() for weight, i in zip(weights, (0, 2, 3), strict=True))

    features = {
        "upright": (lambda s, a, t: -h * 5 * upright(s), lambda s: -50 * upright(s)),
        "squares": (lambda s, a, t: -h * squares(s, 0.5, 0.05, 0.05), lambda s: -squares(s, 10.0, 1.0, 1.0)),
        "effort": lambda s, a, t: -h * 0.01 * a.square().sum(-1),
    }
    est = fit(model.replace(reward=lambda s, a, t: 0.0 * s.sum(-1), final_reward=None), drawn, features=features)
    assert est.status is FitStatus.SUCCESS
    assert ((est.coefficients - 1).abs() < 4 * est.standard_errors).all(), est.to_frame()
    assert (est.standard_errors < 0.1).all()


def restless(size):
    """A pendulum that nobody knows exactly: noise of its speed rises with the speed."""
    steady = pendulum().dynamics

    def dynamics(s, a, t):
        width = torch.stack([0 * s[..., 0] + 1e-4, size * (1 + 10 * s[..., 1].square())], -1)
        return torch.distributions.Independent(torch.distributions.Normal(steady(s, a, t), width), 1)

    return dynamics


def test_an_approximation_around_demonstrations_says_how_far_it_is_off():
    """Noise that changes moves plans, too; far from the plan the local models are others."""
    model, drawn, features, _ = swing(1e-2, 0.2, 4, horizon=6, dynamics=restless(1e-3))
    with pytest.raises(FitError, match="approximate: the likelihood") as caught:
        fit(model, drawn, features=features)
    est = caught.value.estimate
    assert (est.coefficients - 1).abs().max() > 1
    assert est.status is FitStatus.APPROXIMATE
    assert not est.status.ok
    assert "would move by" in est.warnings[0]


@pytest.mark.campaign
def test_an_approximation_around_demonstrations_holds_near_the_plan():
    model, drawn, features, _ = swing(1e-7, 0.05, 10, dynamics=restless(1e-3))
    est = fit(model, drawn, features=features)
    assert est.status is FitStatus.SUCCESS
    assert "nats an action" in est.summary()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"objective": "path"}, "fitted by 'likelihood'"),
        ({"features": {"x": 3}}, "features are QuadraticRewards"),
        ({"features": None}, "nothing to learn"),
        ({"features": ["x"]}, "takes a mapping"),
        ({"demonstrations": (torch.zeros(2, 4, 2), torch.zeros(2, 3, 1))}, "demonstrations have T = 3"),
        ({"demonstrations": torch.zeros(3)}, "takes ContinuousDemonstrations"),
        ({"start": {"place": 1.0, "effort": -5.0, "end": 1.0}}, "does not rise in every direction"),
    ],
)
def test_what_does_not_fit_is_refused(change, said):
    model, features, paid = cart()
    asked = {"demonstrations": shown(paid, 2), "features": features} | change
    with pytest.raises((ValueError, TypeError), match=said):
        fit(model, asked.pop("demonstrations"), **asked)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((torch.zeros(2, 3, 1), torch.zeros(2, 3, 1)), "one state more than actions"),
        ((torch.full((1, 3, 1), math.nan), torch.zeros(1, 2, 1)), r"states\[0, 0, 0\] is nan"),
        ((torch.zeros(1, 3, 1), torch.zeros(1, 2, 1), None, [-1.0]), "weights are"),
        ((torch.zeros(1, 3, 1), torch.zeros(1, 2, 1), [None]), r"persons\[0\] is None"),
    ],
)
def test_vectors_that_make_no_sense_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        ContinuousDemonstrations(*arguments)


@pytest.mark.parametrize(("given", "used"), [({}, 1e-8), ({"tolerance": 1e-12}, 1e-12), ({"tolerance": 1e-3}, 1e-3)])
def test_a_tolerance_that_is_given_counts(given, used, monkeypatch):
    """Plans are rounded, so theirs is another one unless it is given; also where it is that of other fits."""
    model, drawn, features, _ = swing(1e-2, 0.2, 2, horizon=4)
    asked = []
    monkeypatch.setattr(sys.modules[fit.__module__], "fit_objective", lambda task, settings: asked.append(settings))
    fit(model, drawn, features=features, **given)
    assert [settings.tolerance for settings in asked] == [used]
