"""Filter, smoother and LQG, each against its textbook: plain recursions in numpy, Pyro's own, and sampled loops."""

import math
from fractions import Fraction

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from gaussian_models import as_model, integrator
from gaussian_oracle import random_numbers

import cai
from cai.inference import NotKnown, kalman_filter, kalman_smoother, lqg
from cai.models import Flat


def seen_chain(seed, number=8, changing=True):
    """Random matrices of a chain, and observations of it, as numpy arrays."""
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    T = number - 1 if changing else 1

    def covariance(size, *lead, rank=None):
        root = rng.normal(size=(*lead, size, rank or size))
        return root @ np.swapaxes(root, -1, -2) / size

    return {
        "y": rng.normal(size=(number, d)) * 2,
        "A": np.eye(n) + 0.3 * rng.normal(size=(T, n, n)),
        "C": rng.normal(size=(number if changing else 1, d, n)),
        "noise": covariance(n, T, rank=max(1, n - 1)),
        "observation_noise": covariance(d, number if changing else 1) + 0.1 * np.eye(d),
        "initial": (rng.normal(size=n), covariance(n)),
        "offset": rng.normal(size=(T, n)),
    }


def plain_filter(y, A, C, noise, observation_noise, initial, offset):
    """Kalman's filter and the smoother of Rauch, Tung and Striebel, step by step."""
    number, (mean, covariance) = len(y), initial
    at = lambda part, t: part[min(t, len(part) - 1)]  # noqa: E731
    means, covariances, predictions, total = [], [], [], 0.0
    for t in range(number):
        if t:
            mean = at(A, t - 1) @ mean + at(offset, t - 1)
            covariance = at(A, t - 1) @ covariance @ at(A, t - 1).T + at(noise, t - 1)
            predictions.append((mean, covariance))
        H = at(C, t)
        S = H @ covariance @ H.T + at(observation_noise, t)
        gain = covariance @ H.T @ np.linalg.inv(S)
        surprise = y[t] - H @ mean
        total -= (surprise @ np.linalg.solve(S, surprise) + np.linalg.slogdet(2 * math.pi * S)[1]) / 2
        mean, covariance = mean + gain @ surprise, covariance - gain @ S @ gain.T
        means.append(mean)
        covariances.append(covariance)
    smooth = [(means[-1], covariances[-1])]
    for t in reversed(range(number - 1)):
        before, spread = predictions[t]
        back = covariances[t] @ at(A, t).T @ np.linalg.pinv(spread, rcond=1e-13)
        mean = means[t] + back @ (smooth[0][0] - before)
        smooth.insert(0, (mean, covariances[t] + back @ (smooth[0][1] - spread) @ back.T))
    return (np.stack(means), np.stack(covariances), total), [np.stack(part) for part in zip(*smooth, strict=True)]


@pytest.mark.parametrize("changing", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_filter_and_smoother_are_those_of_the_textbook(seed, changing):
    chain = seen_chain(seed, changing=changing)
    (means, covariances, total), (smooth, spreads) = plain_filter(**chain)
    filtered, smoothed = kalman_filter(**chain), kalman_smoother(**chain)
    for found, expected in zip(
        (*filtered, *smoothed), (means, covariances, total, smooth, spreads, total), strict=True
    ):
        assert np.allclose(found, expected, rtol=1e-9, atol=1e-9)
    assert torch.allclose(filtered.means[-1], smoothed.means[-1], atol=1e-10)


def exact_filter(y, A, C, W, V, mean, S):
    """Kalman's filter of two coordinates of which one number is seen, in rational numbers: no digit can be lost."""
    exact = np.vectorize(Fraction, otypes=[object])
    A, C, W, mean, S, V = exact(A), exact(C), exact(W), exact(mean), exact(S), Fraction(V)
    total, steps = 0.0, []
    for t, seen in enumerate(y):
        before = mean, S
        if t:
            before = mean, S = A @ mean, A @ S @ A.T + W
        spread = C @ S @ C + V
        surprise, gain = Fraction(seen) - C @ mean, S @ C / spread
        total -= (float(surprise**2 / spread) + math.log(2 * math.pi * spread)) / 2
        mean, S = mean + gain * surprise, S - np.outer(gain, C @ S)
        steps.append((before, (mean, S)))
    return steps, total


def exact_smoother(steps, A):
    """Rauch, Tung and Striebel's, of such a filter's steps."""
    A = np.vectorize(Fraction, otypes=[object])(A)
    mean, S = steps[-1][1]
    found = [(mean, S)]
    for (_, (known, P)), ((expected, spread), _) in zip(steps[-2::-1], steps[:0:-1], strict=True):
        (a, b), (c, d) = spread
        gain = P @ A.T @ np.array([[d, -b], [-c, a]]) / (a * d - b * c)
        mean, S = known + gain @ (mean - expected), P + gain @ (S - spread) @ gain.T
        found.append((mean, S))
    return found[::-1]


@pytest.mark.parametrize("V", [1e-4, 1e-8, 1e-10, 1e-14, 1e-20])
def test_sharp_sensors_cost_no_digits(V):
    y, A, C = [0.3, -1.1, 0.8, 2.0], [[0.9, 0.3], [-0.2, 0.7]], [0.6, -1.3]
    W, S, m = [[1.1, 0.4], [0.4, 0.9]], [[1.0, 0.2], [0.2, 2.0]], [0.5, -0.25]
    steps, total = exact_filter(y, A, C, W, V, m, S)
    given = np.array(y)[:, None], A, [C]
    for ask, want in ((kalman_filter, [after for _, after in steps]), (kalman_smoother, exact_smoother(steps, A))):
        found = ask(*given, noise=W, observation_noise=[[V]], initial=(m, S))
        for t, (mean, covariance) in enumerate(want):
            assert np.allclose(found.means[t], mean.astype(float), rtol=1e-11, atol=0), (ask, t)
            assert np.allclose(found.covariances[t], covariance.astype(float), rtol=1e-11, atol=0), (ask, t)
        assert float(found.log_likelihood) == pytest.approx(total, rel=1e-11)


@pytest.mark.parametrize("size", [1e8, 1e14])
def test_a_start_that_is_hardly_known_costs_the_smoother_no_digits(size):
    y, A, C = [0.3, -1.1, 0.8, 2.0], [[0.9, 0.3], [-0.2, 0.7]], [0.6, -1.3]
    W, S, m = [[1.1, 0.4], [0.4, 0.9]], [[size, 0.0], [0.0, 2 * size]], [0.5, -0.25]
    steps, total = exact_filter(y, A, C, W, 1.0, m, S)
    found = kalman_smoother(np.array(y)[:, None], A, [C], noise=W, observation_noise=[[1.0]], initial=(m, S))
    for t, (mean, covariance) in enumerate(exact_smoother(steps, A)):
        assert np.allclose(found.means[t], mean.astype(float), rtol=1e-11, atol=0), t
        assert np.allclose(found.covariances[t], covariance.astype(float), rtol=1e-11, atol=0), t
    assert float(found.log_likelihood) == pytest.approx(total, rel=1e-11)


@pytest.mark.parametrize("V", [2.0**-30, 2.0**-60])
def test_sensors_that_see_the_same_are_one_sensor(V):
    """Two sensors of variance V that see the same are one of V / 2 that sees their mean, and their difference."""
    parts, y = {"A": [[0.75]], "noise": [[0.5]], "initial": ([0.25], [[1.5]])}, np.array([[0.375, 0.5], [-1.125, -1.0]])
    for ask in (kalman_filter, kalman_smoother):
        two = ask(y, C=[[1.0], [1.0]], observation_noise=V * np.eye(2), **parts)
        one = ask(y.mean(1, keepdims=True), C=[[1.0]], observation_noise=[[V / 2]], **parts)
        assert np.allclose(two.means, one.means, rtol=1e-7, atol=0)
        assert np.allclose(two.covariances, one.covariances, rtol=1e-7, atol=0)
        between = -(0.125**2 / (4 * V)) - math.log(2 * math.pi * 2 * V) / 2
        change = 2 * between  # densities of (y_1, y_2) are those of their mean and difference, a map of determinant 1
        assert float(two.log_likelihood) == pytest.approx(float(one.log_likelihood) + change, rel=1e-9)


def test_sensors_that_see_the_same_too_sharply_are_refused():
    parts = {"A": [[0.9]], "C": [[1.0], [1.0]], "noise": [[0.4]], "initial": ([0.2], [[1.5]])}
    y = np.array([[0.3, 0.3], [-1.1, -1.1]])
    assert kalman_filter(y, observation_noise=1e-18 * np.eye(2), **parts).log_likelihood.isfinite()
    with pytest.raises(ValueError, match=r"lost in rounding.*merge them"):
        kalman_filter(y, observation_noise=1e-34 * np.eye(2), **parts)


@pytest.mark.parametrize("kind", ["start", "noise", "sensor"])
@pytest.mark.parametrize("size", [2.0**20, 2.0**40, 2.0**50])
def test_what_was_hardly_known_before_a_sharp_observation_costs_no_digits(kind, size):
    A, C, y, m = [[0.75, 0.25], [-0.5, 0.75]], [0.625, -1.25], [0.25, -1.125, 0.75, 2.0], [0.5, -0.25]
    W, S, V = [[1.0, 0.25], [0.25, 0.75]], [[1.0, 0.25], [0.25, 2.0]], 1.0
    if kind == "start":
        S = [[size, 0.25 * size], [0.25 * size, 2 * size]]
    elif kind == "noise":
        W = [[size, 0.0], [0.0, 1.0]]
    else:
        V = 1 / size
    steps, total = exact_filter(y, A, C, W, V, m, S)
    given = np.array(y)[:, None], A, [C]
    for ask, want in ((kalman_filter, [after for _, after in steps]), (kalman_smoother, exact_smoother(steps, A))):
        found = ask(*given, noise=W, observation_noise=[[V]], initial=(m, S))
        for t, (mean, covariance) in enumerate(want):
            widths = np.sqrt(np.diag(covariance).astype(float))
            assert np.abs(found.means[t].numpy() - mean.astype(float)).max() < 1e-12 * (1 + widths.max()), (ask, t)
            off = np.abs(found.covariances[t].numpy() - covariance.astype(float)) / np.outer(widths, widths)
            assert off.max() < 1e-12, (ask, t)
        assert float(found.log_likelihood) == pytest.approx(total, rel=1e-13)


def test_a_covariance_whose_floats_leave_estimates_undecided_is_named():
    ray = np.array([[0.75], [-1.25]])
    parts = {"A": np.eye(2), "C": [[1.0, 0.5]], "observation_noise": [[1.0]], "initial": ([0.0, 0.0], np.eye(2))}
    with pytest.warns(UserWarning, match=r"noise is nearly singular.*floats hold to 5e-07 of itself.*coordinates"):
        kalman_filter([[1.0], [2.0]], noise=2.0**30 * ray @ ray.T + np.eye(2), **parts)
    kalman_filter([[1.0], [2.0]], noise=2.0**30 * ray @ ray.T, **parts)  # singular, as it was meant


def test_the_likelihood_is_that_of_pyros_gaussian_hmm():
    chain = seen_chain(3, changing=False)
    t = {name: torch.as_tensor(part) for name, part in chain.items() if name not in ("initial",)}
    n, d = t["A"].shape[-1], t["y"].shape[-1]
    noise = t["noise"][0] + 0.1 * torch.eye(n)
    # Pyro's chain moves before it is seen: its start is one step before s_1.
    start = dist.MultivariateNormal(torch.zeros(n).double(), 1e-3 * torch.eye(n).double())
    model = dist.GaussianHMM(
        start,
        t["A"][0].T,
        dist.MultivariateNormal(t["offset"][0], noise),
        t["C"][0].T,
        dist.MultivariateNormal(torch.zeros(d).double(), t["observation_noise"][0]),
        duration=len(t["y"]),
    )
    first = (t["offset"][0], 1e-3 * t["A"][0] @ t["A"][0].T + noise)
    found = kalman_filter(
        t["y"], t["A"], t["C"], noise=noise, observation_noise=t["observation_noise"], initial=first, offset=t["offset"]
    )
    assert float(found.log_likelihood) == pytest.approx(float(model.log_prob(t["y"])), rel=1e-9)


def test_one_observation_batches_and_gradients():
    chain = seen_chain(1, number=1, changing=False)
    (means, covariances, total), _ = plain_filter(**chain)
    for found in (kalman_filter(**chain), kalman_smoother(**chain)):
        assert np.allclose(found.means, means)
        assert np.allclose(found.covariances, covariances)
        assert float(found.log_likelihood) == pytest.approx(total)
    chain = seen_chain(2)
    many = torch.as_tensor(chain.pop("y")) + torch.randn(3, 1, 1).double()
    for ask in (kalman_filter, kalman_smoother):
        found = ask(many, **chain)
        assert found.log_likelihood.shape == (3,)
        for b in range(3):
            alone = ask(many[b], **chain)
            assert torch.allclose(found.means[b], alone.means, atol=1e-12)
            assert float(found.log_likelihood[b]) == pytest.approx(float(alone.log_likelihood))
    A = torch.as_tensor(chain.pop("A")).requires_grad_()
    likelihoods = [ask(many[0], A, **chain).log_likelihood for ask in (kalman_filter, kalman_smoother)]
    slopes = [torch.autograd.grad(likelihood, A)[0] for likelihood in likelihoods]
    assert torch.allclose(*slopes, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"y": [[math.nan]]}, "y holds NaN"),
        ({"y": [1.0]}, r"expected \[\.\.\., N, d\]"),
        ({"A": [[1.0, 2.0]]}, "A has shape"),
        ({"A": 1.0}, r"A has shape \[\]; expected \[n, n\], or \[\.\.\., T, n, n\]"),
        ({"noise": [[-1.0]]}, "noise.*eigenvalue -1"),
        ({"observation_noise": [[0.0]]}, "observation_noise is singular.*add a little"),
        ({"C": [[1.0], [2.0]]}, r"C has shape \[2, 1\].*d = 1"),
        ({"initial": [0.0]}, "initial is no pair"),
        ({"A": [[[1.0]], [[1.0]], [[1.0]]]}, "A has shape.*time"),
    ],
)
def test_what_does_not_fit_is_named(changes, text):
    chain = {"y": [[1.0], [2.0]], "A": [[1.0]], "C": [[1.0]], "noise": [[1.0]], "observation_noise": [[1.0]]}
    chain |= {"initial": ([0.0], [[1.0]])}
    for ask in (kalman_filter, kalman_smoother):
        with pytest.raises(ValueError, match=text):
            ask(**chain | changes)


def test_a_sensor_that_is_a_number_is_named():
    with pytest.raises(ValueError, match=r"C has shape \[\]; expected \[d, n\]"):
        lqg(integrator(), 1.0, observation_noise=[[1.0]])


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_the_formula_of_lqg_is_what_its_loop_earns(seed, flat):
    numbers = random_numbers(seed, flat=flat)
    model, rng = as_model(numbers), np.random.default_rng(seed)
    T, n, _ = numbers.sizes
    C, V = rng.normal(size=(T, 2, n)), np.eye(2) * rng.uniform(0.1, 2.0)
    answer = lqg(model, C, observation_noise=V)
    assert float(answer.elbo) <= float(cai.infer(model, "variational").elbo)
    bound = answer.believed_return / answer.temperature - answer.policy_divergence
    assert float(bound) == pytest.approx(float(answer.elbo), rel=1e-11)
    chain = {"noise": numbers.W, "observation_noise": V[None], "initial": (numbers.m1, numbers.S1)}
    expected = plain_filter(rng.normal(size=(T, 2)), numbers.A, C, offset=np.zeros((T, n)), **chain)[0][1]
    assert np.allclose(answer.estimate_covariances, expected, atol=1e-9)


def test_the_loop_of_lqg_is_the_one_that_is_sampled_and_no_other_linear_policy_is_better():
    model, C, V = integrator(), [[1.0, 0.0]], [[0.2]]
    answer = lqg(model, C, observation_noise=V)
    drawn = answer.sample(40_000, seed=2)
    mean, covariance = answer.marginal("s_11")
    assert (drawn.states[:, 10].T.cov() - covariance).abs().max() < 0.03 * covariance.max()
    returns = sum(
        model.paid(drawn.states[:, t], drawn.actions[:, t], drawn.states[:, t + 1], t) for t in range(model.horizon)
    )
    assert abs(float(returns.mean() - answer.believed_return)) < 5 * float(returns.std()) / 200
    assert mean.shape == (2,)
    best = float(answer.elbo)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        policy = answer.conduct
        gain = policy.gain + 0.05 * torch.randn(policy.gain.shape, generator=generator, dtype=torch.float64)
        offset = policy.offset + 0.05 * torch.randn(policy.offset.shape, generator=generator, dtype=torch.float64)
        parts = {name: getattr(answer, name) for name in ("problem", "belief", "estimate_covariances")}
        other = type(answer)(
            **parts, conduct=policy._replace(gain=gain, offset=offset), horizon=10, status=answer.status
        )
        assert float(other.account.believed_return / 2 - other.account.policy_divergence) < best


def test_lqg_without_noise_in_the_sensor_is_the_policy_that_sees_the_state():
    model = integrator(action_prior=Flat())
    prices = [lqg(model, torch.eye(2), observation_noise=size * torch.eye(2)).details["price"] for size in (1e-4, 1e-6)]
    assert prices[0] / prices[1] == pytest.approx(100, rel=0.05)
    answer = lqg(model, torch.eye(2), observation_noise=torch.eye(2))
    with pytest.raises(NotKnown, match="observations"):
        answer.log_prob(*answer.sample(2))
    with pytest.raises(TypeError, match="filter's estimates"):
        cai.evaluate(answer.policy(), model)
    with pytest.raises(ValueError, match="finite horizons"):
        lqg(integrator(horizon=math.inf, reward=None), [[1.0, 0.0]], observation_noise=[[1.0]])
    with pytest.raises(TypeError, match="LinearGaussianModel"):
        lqg(None, [[1.0, 0.0]], observation_noise=[[1.0]])


def test_lqg_answers_travel(tmp_path):
    answer = lqg(integrator(), [[1.0, 0.0]], observation_noise=[[0.2]])
    answer.save(tmp_path / "answer")
    assert float(cai.load(tmp_path / "answer").believed_return) == pytest.approx(float(answer.believed_return))


def test_observations_as_expected_are_seen_as_sharply_as_others():
    """How sharp a sensor is does not depend on what it happened to see; covariances depend on no observation."""
    A, W, S = [[0.9, 0.3], [-0.2, 0.7]], [[1.1, 0.4], [0.4, 0.9]], [[1.0, 0.2], [0.2, 2.0]]
    want = exact_smoother(exact_filter([0.0] * 4, A, [0.6, -1.3], W, 1e-14, [0.0, 0.0], S)[0], A)
    for y in (0.0, 1e-4):
        found = kalman_smoother(
            np.full((4, 1), y), A, [[0.6, -1.3]], noise=W, observation_noise=[[1e-14]], initial=([0.0, 0.0], S)
        )
        for t, (_, covariance) in enumerate(want):
            assert np.allclose(found.covariances[t], covariance.astype(float), rtol=1e-11, atol=0), (y, t)


def test_sharp_sensors_in_a_batch_that_changes_over_time():
    rng = np.random.default_rng(0)
    A, C, y = 0.4 * rng.normal(size=(3, 4, 2, 2)), rng.normal(size=(3, 5, 1, 2)), rng.normal(size=(3, 5, 1))
    rest = {"noise": np.eye(2), "observation_noise": [[1e-9]], "initial": (rng.normal(size=2), np.eye(2))}
    together = kalman_smoother(y, A, C, **rest)
    for b in range(3):
        alone = kalman_smoother(y[b], A[b], C[b], **rest)
        for part, own in zip(together, alone, strict=True):
            assert np.allclose(part[b], own, rtol=1e-12, atol=0)


def unstable_and_seen(number):
    """An unstable chain without noise, and plausible observations of it: its start is all that is not known."""
    y = np.random.default_rng(1).normal(size=number) + 0.75 ** np.arange(number)
    return y, [[1.5, 0.25], [0.0, 0.75]], [1.0, 0.5], [[0.0, 0.0], [0.0, 0.0]]


def test_an_unstable_chain_without_noise_costs_the_smoother_no_digits():
    y, A, C, W = unstable_and_seen(40)
    steps, total = exact_filter(list(y), A, C, W, 1.0, [0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
    found = kalman_smoother(
        y[:, None], A, [C], noise=W, observation_noise=[[1.0]], initial=([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
    )
    for t, (mean, covariance) in enumerate(exact_smoother(steps, A)):
        width = np.sqrt(np.abs(covariance.astype(float)).max())
        assert np.abs(found.means[t].numpy() - mean.astype(float)).max() < 1e-11 * width, t
        assert np.abs(found.covariances[t].numpy() - covariance.astype(float)).max() < 1e-10 * width**2, t
    assert float(found.log_likelihood) == pytest.approx(total, rel=1e-11)


@pytest.mark.parametrize("estimate", [kalman_filter, kalman_smoother])
def test_gradients_are_refused_where_the_plain_recursion_lost_a_variance(estimate):
    """Without noise each observation is of the start: 2^-30 of its variance is left, of which plain steps keep none."""
    C = torch.tensor([[0.5, 0.75]], dtype=torch.float64, requires_grad=True)
    chain = {"noise": np.zeros((2, 2)), "observation_noise": [[2.0**-30]], "initial": (np.zeros(2), np.eye(2))}
    y = (np.arange(20) * 5 % 7 - 3)[:, None] / 4
    found = estimate(y, [[1.0, 0.25], [-0.125, 0.75]], C, **chain)
    with pytest.raises(NotKnown, match=r"an estimate.*gradients.*the observation noise.*take differences of") as no:
        found.log_likelihood.backward()
    assert "bound" not in str(no.value)  # an estimate has none


@pytest.mark.parametrize("number", [20, 40])
def test_the_likelihood_of_a_chain_that_outgrows_its_sensor_is_the_filters(number):
    """The state grows to 1.5^N beside a noise of 1, so that floats hold surprises to 1.5^N eps, and no better."""
    y = 0.5 * 1.5 ** np.arange(number) + np.random.default_rng(2).normal(size=number)
    _, total = exact_filter(list(y), [[1.5]], [1.0], [[0.0]], 1.0, [0.0], [[1.0]])
    chain = {"noise": [[0.0]], "observation_noise": [[1.0]], "initial": ([0.0], [[1.0]])}
    for estimate in (kalman_filter, kalman_smoother):
        found = estimate(y[:, None], [[1.5]], [[1.0]], **chain).log_likelihood
        assert abs(float(found) - float(total)) < 16 * 2.0**-52 * 1.5**number, estimate


def test_members_of_a_batch_are_smoothed_each_by_what_keeps_its_digits():
    """One start is hardly known, the other is that of an unstable chain without noise."""
    y, A, C, W = unstable_and_seen(40)
    starts = torch.stack([1e13 * torch.eye(2), torch.eye(2)]).double()
    chains = torch.stack([torch.tensor([[0.9, 0.3], [-0.2, 0.7]]), torch.tensor(A)]).double()[:, None]
    noises = torch.stack([torch.eye(2), torch.tensor(W)]).double()[:, None]
    rest = {"observation_noise": [[1.0]]}
    together = kalman_smoother(y[:, None], chains, [C], noise=noises, initial=([0.0, 0.0], starts), **rest)
    for b in range(2):
        alone = kalman_smoother(y[:, None], chains[b], [C], noise=noises[b], initial=([0.0, 0.0], starts[b]), **rest)
        for part, own in zip(together, alone, strict=True):
            assert np.allclose(part[b], own, rtol=1e-9, atol=0)


def conditioned_whole(y, A, C, W, V, mean, S):
    """States given all observations, in rational numbers: one Gaussian over all of them, conditioned by elimination."""
    exact = np.vectorize(Fraction, otypes=[object])
    y, A, C, W, V, mean, S = (exact(part) for part in (y, A, C, W, V, mean, S))
    count, n = len(y), len(mean)
    zero, own = exact(np.zeros((n, n))), exact(np.eye(n))
    noises = exact(np.zeros((n * count, n * count)))
    reach, means = exact(np.zeros((n * count, n * count))), [mean]
    for t in range(count):
        noises[n * t : n * t + n, n * t : n * t + n] = W if t else S
        row = [A @ reach[n * (t - 1) : n * t, n * i : n * i + n] if t else zero for i in range(count)]
        row[t] = own
        reach[n * t : n * t + n] = np.hstack(row)
        means += [A @ means[-1]]
    joint, means = reach @ noises @ reach.T, np.concatenate(means[:count])
    sensors, spreads = (exact(np.kron(np.eye(count), np.ones(part.shape))) for part in (C, V))
    sensors, spreads = sensors * np.tile(C, (count, count)), spreads * np.tile(V, (count, count))
    across, surprise = joint @ sensors.T, np.concatenate(y) - sensors @ means
    table, size = np.hstack([sensors @ across + spreads, surprise[:, None], across.T]), len(surprise)
    det = Fraction(1)
    for i in range(size):
        det *= table[i, i]
        table[i] = table[i] / table[i, i]
        for j in set(range(size)) - {i}:
            table[j] = table[j] - table[j, i] * table[i]
    log_det = math.log(det.numerator) - math.log(det.denominator)
    total = -(float(surprise @ table[:, size]) + log_det + size * math.log(2 * math.pi)) / 2
    means, joint = means + across @ table[:, size], joint - across @ table[:, size + 1 :]
    blocks = [joint[n * t : n * t + n, n * t : n * t + n].astype(float) for t in range(count)]
    return means.astype(float).reshape(count, n), np.stack(blocks), total


@pytest.mark.parametrize("noisy", [True, False])
@pytest.mark.parametrize("start", [[[1.0, 0.5], [0.5, 2.0]], [[0.5625, -0.9375], [-0.9375, 1.5625]]])
@pytest.mark.parametrize("sensors", [[[0.75, -0.25], [0.5, 1.25], [-1.0, 0.5]], [[0.75, -0.25], [0.5, 0.5]]])
def test_several_sensors_of_a_start_that_is_hardly_known_cost_the_smoother_no_digits(sensors, start, noisy):
    """The plain filter may have to refuse there; what then answers has to keep its digits as well."""
    A, S = [[0.75, 0.5], [-0.25, 1.25]], 2.0**50 * np.array(start)
    W = [[0.75 * noisy, 0.25 * noisy], [0.25 * noisy, 1.0 * noisy]]
    V = [[1.0, 0.25, 0.0], [0.25, 0.75, 0.125], [0.0, 0.125, 0.5]]
    d = len(sensors)
    y, V = np.array([[3.5, -1.25, 2.0], [0.75, 4.0, -2.5]])[:, :d], np.array(V)[:d, :d]
    want = conditioned_whole(y, A, sensors, W, V, [0.5, -0.25], S)
    found = kalman_smoother(y, A, sensors, noise=W, observation_noise=V, initial=([0.5, -0.25], S))
    assert np.allclose(found.means, want[0], rtol=1e-12, atol=1e-12)
    assert np.allclose(found.covariances, want[1], rtol=1e-12, atol=1e-13)
    assert float(found.log_likelihood) == pytest.approx(want[2], rel=1e-13)
    filtered = kalman_filter(y, A, sensors, noise=W, observation_noise=V, initial=([0.5, -0.25], S))
    assert float(filtered.log_likelihood) == pytest.approx(want[2], rel=1e-13)
    assert np.allclose(filtered.means[-1], want[0][-1], rtol=1e-12, atol=1e-12)
