"""Two hundred steps against one Gaussian over the whole trajectory, which knows no recursion."""

import numpy as np
import pytest
from gaussian_oracle import Numbers, conditioned, followed, total_cost, unrolled

import cai
from cai.inference import kalman_filter, kalman_smoother
from cai.models import LinearGaussianModel, LinearNormal, QuadraticReward

STEPS, TIMES = 200, (0, 57, 199)
TURN = 0.9 * np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])


def numbers_and_model():
    rng = np.random.default_rng(11)

    def covariance(size):
        root = rng.normal(size=(size, size))
        return root @ root.T / size + 0.2 * np.eye(size)

    B, c, W, C, g = (
        rng.normal(size=(2, 1)),
        0.1 * rng.normal(size=2),
        0.1 * covariance(2),
        covariance(3),
        rng.normal(size=3),
    )
    end, start, alpha = (covariance(2), rng.normal(size=2)), (rng.normal(size=2), covariance(2)), 0.75
    prior = (0.2 * rng.normal(size=(1, 2)), rng.normal(size=1), covariance(1))
    timed = lambda part: np.repeat(np.asarray(part)[None], STEPS, 0)  # noqa: E731
    numbers = Numbers(
        *(timed(part) for part in (TURN, B, c, W, C, g, 0.25)),
        *(*end, 0.5, *start, alpha),
        tuple(timed(part) for part in prior),
    )
    reward = QuadraticReward(C[:2, :2], C[2:, 2:], C[:2, 2:], g[:2], g[2:], 0.25, final=(*end, 0.5))
    parts = {"noise": W, "offset": c, "initial": start, "horizon": STEPS, "temperature": alpha, "reward": reward}
    return numbers, LinearGaussianModel(TURN, B, action_prior=LinearNormal(*prior), **parts)


def holds(answer, whole):
    for t in TIMES:
        for kind in ("s", "a"):
            (mean, covariance), found = whole.moments((kind, t)), answer.marginal(f"{kind}_{t + 1}")
            assert np.allclose(found.mean, mean, rtol=0, atol=1e-9), (kind, t)
            assert np.allclose(found.covariance, covariance, rtol=0, atol=1e-9), (kind, t)


def test_exact_and_variational_are_those_of_the_whole_trajectory():
    numbers, model = numbers_and_model()
    exact, whole = cai.infer(model, "exact"), conditioned(numbers)
    assert float(exact.log_evidence) == pytest.approx(whole.log_evidence, rel=1e-9)
    holds(exact, whole)
    fixed = cai.infer(model, "variational")
    whole = followed(numbers, *(part.numpy() for part in fixed.conduct))
    assert float(fixed.believed_return) == pytest.approx(whole.log_evidence, rel=1e-9)
    holds(fixed, whole)
    assert float(fixed.elbo) == pytest.approx(
        float(fixed.believed_return) / 0.75 - float(fixed.policy_divergence), rel=1e-10
    )


@pytest.mark.parametrize("eta", [0.5, -0.02])
def test_the_mean_under_risk_is_the_stationary_trajectory_where_noise_costs_one_over_eta(eta):
    numbers, model = numbers_and_model()
    K0, k0, L = numbers.prior
    matrix, shift = unrolled(numbers, (K0, k0, np.stack([np.linalg.cholesky(cov) for cov in L])))
    price = np.full(matrix.shape[1], 1 / eta)
    price[2::3] = 1.0  # s_1 (2 numbers), then of each step an action (1) and its noise (2)
    P, p, _ = (part / numbers.alpha for part in total_cost(numbers))
    centre = -np.linalg.solve(np.diag(price) + matrix.T @ P @ matrix, matrix.T @ (P @ shift + p))
    mean = matrix @ centre + shift
    answer = cai.infer(model, "risk", eta=eta)
    means = np.concatenate([part.numpy().ravel() for part in (answer.moments.state_means, answer.moments.action_means)])
    assert np.allclose(means, mean, rtol=0, atol=1e-9)


def test_filter_and_smoother_are_those_of_all_states_and_observations():
    numbers, _ = numbers_and_model()
    rng = np.random.default_rng(5)
    C, V, y = rng.normal(size=(1, 2)), np.array([[0.3]]), rng.normal(size=(STEPS, 1))
    nothing = np.zeros((STEPS, 0, 2)), np.zeros((STEPS, 0)), np.zeros((STEPS, 0, 0))
    chain = Numbers(**vars(numbers) | {"B": np.zeros((STEPS, 2, 0)), "prior": None})
    matrix, shift = unrolled(chain, nothing)
    states, means = matrix[: 2 * STEPS], shift[: 2 * STEPS]
    sensor = np.kron(np.eye(STEPS), C)
    joint = states @ states.T
    parts = {"noise": numbers.W[0], "observation_noise": V, "initial": (numbers.m1, numbers.S1), "offset": numbers.c[0]}
    for ask, seen in ((kalman_smoother, STEPS), (kalman_filter, 58)):
        found, part = ask(y, TURN, C, **parts), sensor[:seen]
        spread, surprise = part @ joint @ part.T + V[0, 0] * np.eye(seen), y[:seen, 0] - part @ means
        gain = np.linalg.solve(spread, part @ joint).T
        mean, covariance = means + gain @ surprise, joint - gain @ part @ joint
        if seen == STEPS:
            size = surprise @ np.linalg.solve(spread, surprise) + np.linalg.slogdet(2 * np.pi * spread)[1]
            assert float(found.log_likelihood) == pytest.approx(-size / 2, rel=1e-10)
        for t in (57,) if seen < STEPS else TIMES:
            own = slice(2 * t, 2 * t + 2)
            assert np.allclose(found.means[t], mean[own], rtol=0, atol=1e-10), t
            assert np.allclose(found.covariances[t], covariance[own, own], rtol=0, atol=1e-10), t
