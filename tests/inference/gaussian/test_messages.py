"""The soft Riccati recursion against the conditioning of a whole trajectory's Gaussian, which knows no recursion.

The problems are random, and some are stiff: 1e-9 of the size of an answer is three digits more than any of them loses.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from campaigns import over_seeds
from gaussian_oracle import as_problem, conditioned, followed, gaussian_divergence, random_numbers, unrolled

from cai.inference.gaussian.existence import first_failure
from cai.inference.gaussian.messages import backward
from cai.inference.gaussian.moments import account, believe, forward
from cai.inference.gaussian.problem import GaussianPrior, GaussianProblem, Quadratic

LAW = over_seeds(range(100), quick=12)


def answered(problem, eta):
    """(messages, belief, moments, account) of a problem that has an answer."""
    messages = backward(problem, eta)
    assert first_failure(problem, messages) is None
    policy = GaussianPrior(messages.gain, messages.offset, messages.covariance)
    belief = believe(problem, messages)
    moments = forward(belief, policy)
    return messages, belief, moments, account(problem, messages, belief, policy, moments)


def a_problem(seed, **options):
    return random_numbers(seed, **{"flat": seed % 3 == 0, "singular": seed % 4 == 1} | options)


def close(found, expected, tolerance):
    expected = np.asarray(expected)
    apart = np.abs(np.asarray(found) - expected).max(initial=0)
    assert apart <= tolerance * max(1.0, np.abs(expected).max(initial=0)), apart


@LAW
def test_the_exact_answer_is_the_conditioned_trajectory(seeds):
    for seed in seeds:
        numbers = a_problem(seed)
        whole = conditioned(numbers)
        messages, _, moments, _ = answered(as_problem(numbers), 1.0)
        T, n, _ = numbers.sizes
        close(messages.start / numbers.alpha, whole.log_evidence, 1e-9)
        for t in range(T + 1):
            mean, covariance = whole.moments(("s", t))
            close(moments.state_means[t], mean, 1e-9)
            close(moments.state_covariances[t], covariance, 1e-9)
        for t in range(T):
            mean, covariance = whole.moments(("s", t), ("a", t))
            close(moments.action_means[t], mean[n:], 1e-9)
            close(moments.action_covariances[t], covariance[n:, n:], 1e-9)
            close(moments.cross[t], covariance[:n, n:], 1e-9)
            if np.linalg.cond(covariance[:n, :n]) < 1e8:
                close(messages.gain[t], np.linalg.solve(covariance[:n, :n], covariance[:n, n:]).T, 1e-8)


@LAW
def test_accounts_add_up_and_bounds_are_ordered(seeds):
    for seed in seeds:
        numbers = a_problem(seed)
        problem = as_problem(numbers)
        last = -torch.inf
        for eta in (-0.02, -1e-12, 0.0, 1e-12, 0.5, 1.0):
            if first_failure(problem, backward(problem, eta)) is not None:
                assert eta < 0
                continue
            messages, _, _, paid = answered(problem, eta)
            bound = paid.believed_return / numbers.alpha - paid.policy_divergence - paid.luck
            if eta in (0.0, 1.0):
                close(bound, messages.start / numbers.alpha, 1e-10)
            assert messages.start >= last - 1e-12 * abs(last)
            last = messages.start
            assert paid.luck >= 0
            assert (paid.luck == 0) == (eta == 0) or abs(eta) < 1e-9


@LAW
def test_a_bound_is_what_the_policy_earns_in_the_true_world(seeds):
    for seed in seeds:
        numbers = a_problem(seed)
        messages, _, moments, paid = answered(as_problem(numbers), 0.0)
        whole = followed(numbers, *(part.numpy() for part in (messages.gain, messages.offset, messages.covariance)))
        close(paid.believed_return, whole.log_evidence, 1e-9)  # `followed` returns the return in this place
        T, n, _ = numbers.sizes
        for t in range(T):
            mean, covariance = whole.moments(("s", t), ("a", t))
            close(torch.cat([moments.state_means[t], moments.action_means[t]]), mean, 1e-9)
            close(moments.action_covariances[t], covariance[n:, n:], 1e-9)


@LAW
def test_divergence_and_luck_are_that_of_whole_trajectories(seeds):
    for seed in seeds:
        numbers = random_numbers(seed, largest=(4, 3, 8))
        numbers.W = numbers.W + 0.05 * np.eye(numbers.W.shape[-1])
        numbers.S1 = numbers.S1 + 0.05 * np.eye(len(numbers.m1))
        K0, k0, L = numbers.prior
        matrix, mean = unrolled(numbers, (K0, k0, np.linalg.cholesky(L)))
        whole = conditioned(numbers)
        _, _, _, paid = answered(as_problem(numbers), 1.0)
        divergence = gaussian_divergence(whole.mean, whole.covariance, mean, matrix @ matrix.T)
        close(paid.policy_divergence + paid.luck, divergence, 1e-7)  # the oracle inverts the trajectory's covariance


@pytest.mark.parametrize("flat", [True, False])
def test_without_noise_nothing_is_left_to_hope_for(flat):
    for seed in range(10):
        problem = as_problem(random_numbers(seed, flat=flat, noisy=False))
        exact, fixed = backward(problem, 1.0), backward(problem, 0.0)
        close(exact.start, fixed.start, 1e-12)
        close(exact.gain, fixed.gain, 1e-12)
        assert float(answered(problem, 1.0)[3].luck) == 0


def test_with_a_flat_prior_the_gain_of_fixed_dynamics_is_free_of_temperature_and_noise():
    for seed in range(10):
        problem = as_problem(random_numbers(seed, flat=True))
        hot = replace(problem, temperature=problem.temperature * 7, noise=problem.noise * 3)
        here, there = backward(problem, 0.0), backward(hot, 0.0)
        close(there.gain, here.gain, 1e-12)
        close(there.offset, here.offset, 1e-12)
        close(there.covariance, 7 * here.covariance, 1e-12)
        proper = as_problem(random_numbers(seed))
        warm = replace(proper, temperature=proper.temperature * 7)
        assert (backward(proper, 0.0).gain - backward(warm, 0.0).gain).abs().max() > 1e-3


def test_a_wide_prior_tends_to_the_flat_one():
    numbers = random_numbers(3, flat=True, largest=(3, 2, 5))
    T, _, m = numbers.sizes
    flat, misses = backward(as_problem(numbers), 1.0).start / numbers.alpha, []
    for width in (1e4, 1e5):
        n = len(numbers.m1)
        wide = GaussianPrior(
            *(torch.as_tensor(x) for x in (np.zeros((1, m, n)), np.zeros((1, m)), width * np.eye(m)[None]))
        )
        evidence = backward(as_problem(numbers, prior=wide), 1.0).start / numbers.alpha
        misses.append(abs(float(evidence + T * m / 2 * np.log(2 * np.pi * width) - flat)))
    assert misses[0] / misses[1] == pytest.approx(10, rel=1e-2)


def test_no_digit_is_lost_as_the_tilt_vanishes():
    for seed in range(5):
        problem = as_problem(a_problem(seed))
        at_zero = float(backward(problem, 0.0).start)
        slope = (float(backward(problem, 1e-7).start) - at_zero) / 1e-7
        for eta in (1e-12, -1e-12, 1e-300):
            moved = float(backward(problem, eta).start) - at_zero
            assert abs(moved - slope * eta) <= 1e-14 * abs(at_zero)
        small, smaller = (float(answered(problem, eta)[3].luck) for eta in (1e-7, 1e-10))
        assert small / smaller == pytest.approx(1e6, rel=1e-3)  # luck goes as the square of eta


def test_batches_and_time_axes_broadcast():
    numbers = [random_numbers(seed, largest=(3, 2, 4)) for seed in range(40)]
    numbers = [one for one in numbers if one.sizes == numbers[0].sizes]
    assert len(numbers) >= 2
    problems = [as_problem(one) for one in numbers]

    def together(name):
        return torch.stack([getattr(problem, name) for problem in problems])

    names = ("A", "B", "offset", "noise", "cost", "linear", "constant", "mean", "covariance", "temperature")
    final = Quadratic(*(torch.stack(parts) for parts in zip(*(problem.final for problem in problems), strict=True)))
    prior = GaussianPrior(*(torch.stack(parts) for parts in zip(*(problem.prior for problem in problems), strict=True)))
    batch = replace(problems[0], final=final, prior=prior, **{name: together(name) for name in names})
    for eta in (0.0, 1.0):
        messages, _, moments, paid = answered(batch, eta)
        for b, problem in enumerate(problems):
            alone, _, own, account_alone = answered(problem, eta)
            close(messages.start[b], alone.start, 1e-12)
            close(messages.gain[b], alone.gain, 1e-12)
            close(moments.state_covariances[b], own.state_covariances, 1e-12)
            close(torch.stack(paid)[:, b], torch.stack(account_alone), 1e-11)


def test_constant_matrices_are_those_of_every_step():
    problem = as_problem(random_numbers(1, largest=(3, 2, 6)))
    names = ("A", "B", "offset", "noise", "cost", "linear", "constant")
    once = replace(problem, prior=None, **{name: getattr(problem, name)[:1] for name in names})
    T = problem.horizon
    spelled = {name: getattr(once, name).expand(T, *getattr(once, name).shape[1:]) for name in names}
    close(backward(once, 1.0).start, backward(replace(once, **spelled), 1.0).start, 1e-14)


def test_messages_stay_symmetric_over_long_horizons():
    problem = as_problem(random_numbers(5, flat=True))
    names = ("A", "B", "offset", "noise", "cost", "linear", "constant")
    long = replace(problem, horizon=300, **{name: getattr(problem, name)[:1] for name in names})
    for eta in (0.0, 1.0):
        messages, _, _, paid = answered(long, eta)
        P = messages.cost_to_go.P
        assert torch.equal(P, P.mT)
        bound = paid.believed_return / problem.temperature - paid.policy_divergence - paid.luck
        close(bound, messages.start / problem.temperature, 1e-10)


@pytest.mark.parametrize("eta", [-0.05, 0.0, 1e-9, 1.0])
def test_gradients_pass_through_matrices_and_temperature(eta):
    numbers = random_numbers(11, largest=(2, 2, 3), singular=True)
    problem = as_problem(numbers)
    parts = {name: getattr(problem, name) for name in ("A", "B", "offset", "noise", "cost", "linear", "temperature")}
    parts |= {"mean": problem.mean, "covariance": problem.covariance, "L": problem.prior.covariance}

    def start(*values):
        given = dict(zip(parts, values, strict=True))
        for name in ("noise", "cost", "covariance", "L"):
            given[name] = (given[name] + given[name].mT) / 2
        prior = problem.prior._replace(covariance=given.pop("L"))
        found = backward(replace(problem, prior=prior, **given), eta)
        return found.start, found.gain

    values = [value.clone().requires_grad_() for value in parts.values()]
    assert torch.autograd.gradcheck(start, values, atol=1e-6, rtol=1e-5)


def test_the_gradient_of_the_start_with_respect_to_the_tilt():
    problem = as_problem(random_numbers(11, largest=(2, 2, 3)))
    for at in (-0.02, 0.0, 1e-6, 0.7):
        eta = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda tilt: backward(problem, tilt).start, (eta,), atol=1e-5)


def test_a_chain_without_actions_or_without_steps():
    numbers = random_numbers(2, actions=False)
    whole = conditioned(numbers)
    messages, _, moments, _ = answered(as_problem(numbers), 1.0)
    close(messages.start / numbers.alpha, whole.log_evidence, 1e-9)
    close(moments.state_means[-1], whole.moments(("s", len(numbers.A)))[0], 1e-9)
    problem = as_problem(numbers)
    names = ("A", "B", "offset", "noise", "cost", "linear", "constant")
    none = replace(problem, horizon=0, **{name: getattr(problem, name)[:0] for name in names})
    assert backward(replace(none, prior=None), 1.0).gain.shape == (0, 0, problem.num_states)


@pytest.mark.parametrize(("L", "alpha"), [(0.5, 1.0), (1e-12, 1.0), (1e-18, 1.0), (0.5, 1e9), (0.5, 1e15), (1e12, 1.0)])
def test_no_digit_is_lost_where_the_prior_is_narrow_or_the_temperature_high(L, alpha):
    s, A, B, K0, k0, Q, R, N, Qf = 1.3, 0.9, 0.8, 0.3, 0.7, 1.1, 0.6, 0.2, 2.0

    def steps(value):
        return torch.tensor([[[value]]], dtype=torch.float64)

    zero = torch.zeros(1, dtype=torch.float64)
    problem = GaussianProblem(
        A=steps(A),
        B=steps(B),
        offset=zero[None],
        noise=steps(0.0),
        cost=torch.tensor([[[Q, N], [N, R]]], dtype=torch.float64),
        linear=torch.zeros(1, 2, dtype=torch.float64),
        constant=zero,
        final=Quadratic(steps(Qf)[0], zero, zero[0]),
        mean=zero + s,
        covariance=steps(0.0)[0],
        horizon=1,
        temperature=zero[0] + alpha,
        prior=GaussianPrior(steps(K0), zero[None] + k0, steps(L)),
    )
    # V = alpha log E exp(-(1/2 h a^2 + g a + c) / alpha) with a = mu + N(0, L), by completing the square about mu
    h, slope, mu = R + Qf * B**2, N + Qf * A * B, K0 * s + k0
    g, c = slope * s, (Q + Qf * A**2) * s**2 / 2
    moved = (h * mu + g) ** 2 * L / (2 * (alpha + L * h))
    expected = -(h * mu**2 / 2 + g * mu + c) + moved - alpha * math.log1p(L * h / alpha) / 2
    messages = backward(problem, 1.0)
    assert float(messages.start) == pytest.approx(expected, rel=1e-13)
    assert float(messages.gain) == pytest.approx(K0 - L * (h * K0 + slope) / (alpha + L * h), rel=1e-13)
    assert float(messages.offset) == pytest.approx(k0 - L * h * k0 / (alpha + L * h), rel=1e-13)
    assert float(messages.covariance) == pytest.approx(alpha * L / (alpha + L * h), rel=1e-13)
