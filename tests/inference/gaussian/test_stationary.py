"""Infinite horizons with fixed dynamics, against scipy's Riccati solver, long finite horizons and long simulations."""

import math
import re

import numpy as np
import pytest
import torch
from gaussian_digits import apart, precise
from gaussian_models import integrator
from scipy.linalg import solve_discrete_are

import cai
from cai.inference import Status
from cai.models import Flat, LinearGaussianModel, LinearNormal, QuadraticReward


def endless(seed, *, flat, discount=0.95, **changes):
    """A random model of an infinite horizon with cross and affine terms; unstable without control."""
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    root = rng.normal(size=(n + m, n + m))
    C = root @ root.T / (n + m) + 0.1 * np.eye(n + m)
    noise = rng.normal(size=(n, n))
    prior = LinearNormal(0.2 * rng.normal(size=(m, n)), rng.normal(size=m), (0.5 + rng.random()) * np.eye(m))
    reward = QuadraticReward(C[:n, :n], C[n:, n:], C[:n, n:], rng.normal(size=n), rng.normal(size=m), 0.3)
    parts = {
        "A": 1.05 * np.eye(n) + 0.2 * rng.normal(size=(n, n)),
        "B": rng.normal(size=(n, m)),
        "noise": noise @ noise.T * 0.1,
        "offset": 0.2 * rng.normal(size=n),
        "initial": (rng.normal(size=n), np.eye(n)),
        "horizon": math.inf,
        "discount": discount,
        "temperature": math.exp(rng.uniform(-1, 1)),
        "reward": reward,
        "action_prior": Flat() if flat else prior,
    }
    return LinearGaussianModel(**parts | changes), C


def riccati(model, C):
    """scipy's P and K, the prior folded in by hand."""
    n, root = model.state_dim, math.sqrt(model.discount)
    C = C.copy()
    if isinstance(model.action_prior, LinearNormal):
        J = np.hstack([-model.action_prior.K0.numpy(), np.eye(model.action_dim)])
        C = C + model.temperature * J.T @ np.linalg.inv(model.action_prior.L.numpy()) @ J
    A, B = root * model.A.numpy(), root * model.B.numpy()
    P = solve_discrete_are(A, B, C[:n, :n], C[n:, n:], s=C[:n, n:])
    return P, -np.linalg.solve(C[n:, n:] + B.T @ P @ B, B.T @ P @ A + C[n:, :n])


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_the_stationary_message_is_scipys_riccati_solution(seed, flat):
    model, C = endless(seed, flat=flat)
    P, K = riccati(model, C)
    answer = cai.infer(model, "variational")
    assert np.allclose(answer.message(0).P, P, rtol=1e-10, atol=1e-10 * np.abs(P).max())
    assert np.allclose(answer.gain(7), K, rtol=1e-9, atol=1e-10)
    alpha = model.temperature
    bound = answer.believed_return / alpha - answer.policy_divergence
    assert float(bound) == pytest.approx(float(answer.elbo), rel=1e-10)
    average, C = endless(seed, flat=flat, discount=1.0, criterion="average")
    P, K = riccati(average, C)
    answer = cai.infer(average, "variational")
    assert np.allclose(answer.message(0).P, P, rtol=1e-9, atol=1e-9 * np.abs(P).max())
    assert np.allclose(answer.gain(0), K, rtol=1e-8, atol=1e-9)
    assert answer.elbo is None
    gained = answer.believed_return - alpha * answer.policy_divergence
    assert float(gained) == pytest.approx(float(answer.gain), rel=1e-9)


@pytest.mark.parametrize("discount", [0.9, 1.0])
def test_it_is_the_limit_of_finite_horizons(discount):
    changes = {"criterion": "average"} if discount == 1 else {}
    model, _ = endless(3, flat=False, discount=discount, **changes)
    answer, finite = cai.infer(model, "variational"), model.replace(criterion="total")
    long, longer = (cai.infer(finite.replace(horizon=T), "variational") for T in (800, 801))
    state = torch.randn(model.state_dim, dtype=torch.float64)
    assert torch.allclose(long.gain(0), answer.gain(0), rtol=1e-10)
    assert torch.allclose(long.offset(0), answer.offset(0), rtol=1e-9, atol=1e-12)
    assert torch.allclose(long.covariance(0), answer.covariance(0))
    if discount < 1:
        assert float(long.value(state, 0)) == pytest.approx(float(answer.value(state, 0)), rel=1e-10)
        assert float(long.elbo) == pytest.approx(float(answer.elbo), rel=1e-10)
        assert float(long.believed_return) == pytest.approx(float(answer.believed_return), rel=1e-10)
        assert float(long.policy_entropy) == pytest.approx(float(answer.policy_entropy), rel=1e-10)
        expected = model.reward  # Q = r + discount E V
        assert expected is not None
        assert float(long.q_value(state, torch.ones(model.action_dim), 0)) == pytest.approx(
            float(answer.q_value(state, torch.ones(model.action_dim), 0)), rel=1e-10
        )
    else:
        gain = float(longer.value(state, 0) - long.value(state, 0))
        assert gain == pytest.approx(float(answer.gain), rel=1e-8)
        apart = [float(found.value(state, 0) - found.value(0 * state, 0)) for found in (long, answer)]
        assert apart[0] == pytest.approx(apart[1], rel=1e-8)
        law = answer.details["stationary_mean"], answer.details["stationary_covariance"]
        moments = long.moments
        assert torch.allclose(moments.state_means[400], law[0], rtol=1e-8, atol=1e-10)
        assert torch.allclose(moments.state_covariances[400], law[1], rtol=1e-7)


def test_a_flat_prior_needs_a_cost_of_actions_as_every_last_step_does():
    free = integrator(horizon=math.inf, discount=0.9, reward=QuadraticReward(Q=torch.eye(2)), action_prior=Flat())
    answer = cai.infer(free, "variational", throw=False)
    assert (answer.status, answer.details["step"], answer.details["eigenvalue"]) == (Status.INFINITE, "last", 0.0)
    assert cai.infer(free.replace(action_prior=LinearNormal(L=torch.eye(1))), "variational").status.ok


def test_what_has_no_stationary_answer_says_so():
    lost = integrator(A=[[1.2, 0.0], [0.0, 0.5]], B=[[0.0], [1.0]], horizon=math.inf, discount=0.9, reward=_cost())
    answer = cai.infer(lost, "variational", throw=False)
    assert answer.status is Status.DIVERGED
    assert "grow without end" in answer.details["why"]
    with pytest.raises(ValueError, match="diverged"):
        answer.gain(0)
    kept = lost.replace(discount=0.5)
    assert cai.infer(kept, "variational").status.ok
    reward = QuadraticReward(Q=torch.diag(torch.tensor([0.0, 1.0])), R=torch.eye(1))
    parts = {"A": [[1.0, 0.0], [0.0, 0.5]], "B": [[0.0], [1.0]], "horizon": math.inf, "criterion": "average"}
    idle = integrator(**parts, reward=reward)
    assert cai.infer(idle, "variational", throw=False).status is Status.NOT_ASSURED
    unbounded = integrator(horizon=math.inf, discount=0.9, reward=QuadraticReward(Q=-torch.eye(2)), action_prior=Flat())
    assert not cai.infer(unbounded, "variational", throw=False).status.ok


@pytest.mark.parametrize("turn", [0.0, 0.3])
def test_linear_costs_of_a_state_that_outgrows_the_discount_have_no_sum(turn):
    """s' = 1.2 s under a discount of .9: what is earned in proportion to s adds up to no number, what else is, does."""
    basis = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    parts = {"A": basis @ np.diag([1.2, 0.5]) @ basis.T, "B": basis[:, 1:], "horizon": math.inf, "discount": 0.9}
    model = integrator(**parts, reward=QuadraticReward(R=np.eye(1), q=basis[:, 0]))
    answer = cai.infer(model, "variational", throw=False)
    assert answer.status is Status.DIVERGED
    assert "in proportion to the state" in answer.details["why"]
    kept = cai.infer(model.replace(reward=QuadraticReward(R=np.eye(1), q=basis[:, 1])), "variational")
    steps = sum((0.9 * 0.5) ** t for t in range(60))
    assert kept.message(0).p.numpy() == pytest.approx(steps * basis[:, 1], abs=1e-12)
    outcome = cai.evaluate(cai.extract_policy(kept), model)
    assert outcome.expected_return == -math.inf


def test_a_policy_whose_costs_add_up_to_no_number_is_worth_no_number():
    """s' = 2 s under a discount of 1/4: every step costs the same once more."""
    parts = {"A": [[2.0]], "B": [[0.0]], "noise": [[1.0]], "initial": ([1.0], [[0.0]]), "horizon": math.inf}
    model = LinearGaussianModel(**parts, discount=0.25, reward=_small(0.0), action_prior=LinearNormal(L=[[1.0]]))
    policy = cai.extract_policy(cai.infer(model, "variational"))
    assert cai.evaluate(policy, model.replace(reward=_small(1.0))).expected_return == -math.inf


def test_members_of_a_batch_settle_each_by_its_own_size():
    A = torch.tensor([0.999999, 0.5]).double()[:, None, None, None]
    sizes = torch.tensor([1e-22, 1.0]).double()[:, None, None, None]
    parts = {"noise": [[1.0]], "initial": ([1.0], [[0.0]]), "horizon": math.inf, "reward": QuadraticReward(Q=sizes)}
    for more in ({"discount": 0.9999999}, {"criterion": "average"}):
        model = LinearGaussianModel(A, [[1e-3]], action_prior=LinearNormal(L=[[1e-6]]), **parts, **more)
        answer = cai.infer(model, "variational")
        for i in range(2):
            alone = cai.infer(model.member(i), "variational")
            assert float(answer.message(0).P[i]) == pytest.approx(float(alone.message(0).P), rel=1e-12)
            assert float(answer.believed_return[i]) == pytest.approx(float(alone.believed_return), rel=1e-9)


@pytest.mark.parametrize(
    ("more", "q", "text"),
    [
        ({"discount": 0.9}, 0.0, "grow without end"),
        ({"discount": 0.9}, 1.0, "in proportion to the state"),
        ({"criterion": "average"}, 0.0, "no stationary law: an eigenvalue of A . B K has modulus 1.2"),
    ],
)
def test_the_member_of_a_batch_that_has_no_answer_is_named(more, q, text):
    """Of three members one has a coordinate that grows by 1.2 a step and that no action reaches."""
    A = torch.tensor([[[0.5, 0.0], [0.0, 0.5]], [[0.75, 0.0], [0.0, 0.5]], [[1.2, 0.0], [0.0, 0.5]]])[:, None]
    Q = torch.diag(torch.tensor([float("grow" in text), 1.0]))
    batch = integrator(
        A=A, B=[[0.0], [1.0]], horizon=math.inf, reward=QuadraticReward(Q=Q, R=[[1.0]], q=[q, 0.0]), **more
    )
    answer = cai.infer(batch, "variational", throw=False)
    assert not answer.status.ok
    assert answer.details["member"] == [2]
    assert re.search(f"{text}.*, in batch member .2.$", answer.details["why"])
    alone = cai.infer(batch.member(2), "variational", throw=False)
    assert (alone.status, "member" in alone.details) == (answer.status, False)
    assert all(cai.infer(batch.member(i), "variational").status.ok for i in range(2))


def _small(size):
    return QuadraticReward(Q=[[size]], R=[[1.0]])


def _cost():
    return QuadraticReward(Q=torch.eye(2), R=torch.eye(1))


def test_marginals_and_policies_of_an_infinite_horizon():
    answer = cai.infer(integrator(horizon=math.inf, discount=0.9, reward=_cost()), "variational")
    policy = answer.policy()
    assert policy.horizon == math.inf
    assert torch.equal(policy.mean(torch.ones(2), 0), policy.mean(torch.ones(2), 1000))
    assert answer.marginal("s_1").mean.shape == (2,)
    with pytest.raises(ValueError, match="infinite horizon"):
        answer.marginal("s_2")
    for ask in (lambda: answer.sample(1), lambda: answer.policy("plan")):
        with pytest.raises(ValueError, match="infer with horizon=N"):
            ask()


def test_gradients_pass_through_the_stationary_answer():
    discount = 0.9

    def bound(Q, temperature):
        reward = QuadraticReward(Q=Q @ Q.T, R=torch.eye(1))
        model = integrator(horizon=math.inf, discount=discount, reward=reward, temperature=temperature)
        return cai.infer(model, "variational").elbo

    parts = (torch.randn(2, 2, dtype=torch.float64), torch.tensor(1.3, dtype=torch.float64))
    assert torch.autograd.gradcheck(bound, [part.requires_grad_() for part in parts], atol=1e-6)


@pytest.mark.parametrize("size", [1e-9, 1e-13])
def test_small_rewards_have_a_stationary_answer_beside_a_prior(size):
    A, B = np.array([[0.7, 0.4], [-0.2, 0.6]]), np.array([[0.5], [-1.1]])
    K0, k0, L, W, discount, mean = np.array([[0.31, -0.17]]), np.array([0.2]), 0.7, 0.1, 0.9, np.array([1.0, -0.4])
    model = LinearGaussianModel(
        A,
        B,
        noise=W * np.eye(2),
        initial=(mean, np.zeros((2, 2))),
        horizon=math.inf,
        discount=discount,
        reward=QuadraticReward(Q=size * np.diag([1.0, 3.0]), R=[[size / 2]]),
        action_prior=LinearNormal(K0, k0, [[L]]),
    )
    total, spread = 0.0, np.zeros((2, 2))  # to first order in the rewards the bound is the return of the prior
    for t in range(600):
        action = ((K0 @ mean + k0) ** 2 + K0 @ spread @ K0.T + L).item()
        states = np.diag([1.0, 3.0]) @ (np.outer(mean, mean) + spread)
        total -= discount**t * (np.trace(states) + action / 2) / 2 * size
        mean, spread = (
            (A + B @ K0) @ mean + B @ k0,
            (A + B @ K0) @ spread @ (A + B @ K0).T + L * B @ B.T + W * np.eye(2),
        )
    answer = cai.infer(model, "variational")
    assert answer.status is Status.SUCCESS
    assert float(answer.elbo) == pytest.approx(total, rel=1e-7)


@pytest.mark.parametrize("backend", ["restricted", "max-product", "smc"])
def test_who_knows_sums_alone_names_the_one_backend_that_averages(backend):
    model = LinearGaussianModel(
        [[0.9]], [[1.0]], noise=[[0.1]], initial=([0.0], [[1.0]]), horizon=math.inf, criterion="average",
        reward=QuadraticReward(Q=[[1.0]], R=[[1.0]]), action_prior=LinearNormal(L=[[1.0]]),
    )  # fmt: skip
    assert cai.infer(model, "variational").status.ok
    with pytest.raises(
        ValueError, match="criterion='average'; ask 'variational', or give a finite horizon in place of the criterion"
    ):
        cai.infer(model, backend)


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("weight", [2.0**20, 2.0**30, 2.0**40])
def test_a_cost_that_outweighs_all_else_costs_no_digits_and_is_no_divergence(weight, average):
    """Riccati's recursion with sixty digits, far beyond where it settles; one unstable direction must be steered."""
    A, B, discount = np.array([[1.25, 0.5], [-0.25, 0.75]]), np.array([[0.5], [-1.25]]), 1.0 if average else 0.875
    reward = QuadraticReward(np.diag([weight, 1.0]), [[1.0]], q=[weight / 8, 0.5])
    model = LinearGaussianModel(
        A,
        B,
        noise=0.25 * np.eye(2),
        initial=([1.0, -0.5], 0.25 * np.eye(2)),
        horizon=math.inf,
        discount=discount,
        criterion="average" if average else "total",
        reward=reward,
        action_prior=Flat(),
    )
    answer = cai.infer(model, "variational")
    F, G, P = precise(A), precise(B), precise(np.zeros((2, 2)))
    p = precise(np.zeros(2))
    for _ in range(250):
        H = 1 + discount * (G.T @ P @ G)[0, 0]
        K, k = -discount * (G.T @ P @ F) / H, -discount * (G.T @ p) / H
        closed = F + G @ K
        p = precise([weight / 8, 0.5]) + discount * closed.T @ p
        P = precise(np.diag([weight, 1.0])) + discount * F.T @ P @ closed
        P = (P + P.T) / 2
    assert apart(answer.message(0).P, P) < 1e-12
    assert apart(answer.message(0).p, p) < 1e-10
    assert apart(answer.gain(0), K) < 1e-11
    assert apart(answer.offset(0), k) < 1e-9
