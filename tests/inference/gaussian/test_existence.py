"""Where values are infinite: which step, which eigenvalue, at which caution; and that nothing fails where none may."""

from dataclasses import replace

import mpmath
import numpy as np
import pytest
import torch
from gaussian_oracle import Numbers, as_problem, conditioned, random_numbers

import cai
from cai.inference import Status
from cai.inference.gaussian.existence import critical_eta, first_failure
from cai.inference.gaussian.messages import backward
from cai.models import LinearGaussianModel, LinearNormal, QuadraticReward


def scalar(T=1, *, A=1.0, B=1.0, W=0.0, Q=0.0, R=1.0, Qf=0.0, S1=0.0, alpha=1.0, prior=1.0):
    """A problem of one coordinate; `prior` is the variance of the action prior, None for the flat one."""

    def steps(value):
        return np.full((T, 1, 1), value)

    return Numbers(
        A=steps(A),
        B=steps(B),
        c=np.zeros((T, 1)),
        W=steps(W),
        C=np.tile(np.diag([Q, R]), (T, 1, 1)),
        g=np.zeros((T, 2)),
        const=np.zeros(T),
        Qf=np.array([[Qf]]),
        qf=np.zeros(1),
        constf=0.0,
        m1=np.zeros(1),
        S1=np.array([[S1]]),
        alpha=alpha,
        prior=None if prior is None else (np.zeros((T, 1, 1)), np.zeros((T, 1)), steps(prior)),
    )


def failure(numbers, eta):
    problem = as_problem(numbers)
    found = first_failure(problem, backward(problem, eta))
    return found, None if found is None or eta >= 0 else critical_eta(problem, eta, found)


def test_the_breakdown_of_one_step_is_where_theory_has_it():
    for alpha, W, q in ((1.0, 0.5, 2.0), (0.3, 4.0, 0.7), (5.0, 0.01, 100.0)):
        expected = -alpha / (W * q)
        numbers = scalar(W=W, Qf=q, alpha=alpha)
        assert failure(numbers, 0.999 * expected)[0] is None
        found, critical = failure(numbers, 3 * expected)
        assert (found.kind, found.step) == ("outcome", 0)
        assert found.eigenvalue == pytest.approx(1 - 3)
        assert critical == pytest.approx(expected, rel=1e-6)
        assert "at step 0" in found.sentence()


@pytest.mark.parametrize("eta", [-0.5, -0.4, -3.0, -1e4])
def test_a_breakdown_is_found_in_few_passes(monkeypatch, eta):
    """Halving an interval takes 24 of them, and more from far away; a slider of `cai explore` waits for each."""
    model = cai.models.build_model("lqg")
    passes = []
    monkeypatch.setattr(
        "cai.inference.gaussian.existence.backward", lambda *given: passes.append(given) or backward(*given)
    )
    answer = cai.infer(model, "risk", eta=eta, throw=False)
    critical = answer.details["eta_crit"]
    assert len(passes) <= (14 if eta > -10 else 28)
    assert not cai.infer(model, "risk", eta=critical * (1 + 3e-7), throw=False).status.ok
    assert cai.infer(model, "risk", eta=critical * (1 - 3e-7), throw=False).status.ok


def test_the_start_can_break_down_too():
    found, critical = failure(scalar(S1=2.0, Q=3.0, B=0.0), -1.0)
    assert (found.kind, found.step) == ("start", None)
    assert critical == pytest.approx(-1 / 6, rel=1e-6)
    assert "at the start" in found.sentence()


def test_the_step_that_fails_is_the_last_one_in_time():
    found, _ = failure(scalar(T=5, W=1.0, Q=1.0, Qf=0.1), -1.5)
    assert found.kind == "outcome"
    assert found.step == 3  # theta W P is -0.15 at the end, and below -1.5 with the next step's cost


def test_rewards_without_bound_break_the_exact_target_where_fixed_dynamics_are_fine():
    numbers = scalar(W=1.0, Qf=-1.5, B=0.1)
    assert failure(numbers, 0.0)[0] is None
    found, _ = failure(numbers, 1.0)
    assert (found.kind, found.step) == ("outcome", 0)
    assert found.eigenvalue == pytest.approx(-0.5)
    found, _ = failure(scalar(R=-3.0), 0.0)
    assert (found.kind, found.step, found.eigenvalue) == ("action", 0, pytest.approx(-2))
    found, critical = failure(scalar(R=-3.0, W=0.0), -1.0)
    assert found.kind == "action"
    assert critical is None  # without noise no caution breaks down


def test_the_finite_etas_are_an_interval():
    numbers = scalar(W=1.0, Qf=-0.5, B=2.0, prior=1.0, R=0.5)  # at eta = 0 the action's cost is 1.5 - 2
    assert failure(numbers, 0.0)[0].kind == "action"
    assert failure(numbers, 1.0)[0].kind == "action"
    numbers = scalar(T=2, W=1.0, Q=0.5, Qf=0.1)
    low = failure(numbers, -50.0)[1]
    assert failure(numbers, low * (1 + 1e-4))[0] is not None
    assert failure(numbers, low * (1 - 1e-4))[0] is None


def test_rewards_bounded_above_and_a_proper_prior_never_break_down_at_eta_above_zero():
    for seed in range(20):
        numbers = random_numbers(seed, singular=seed % 2 == 0)
        numbers.W = numbers.W * 10.0 ** (seed % 7)
        for eta in (0.0, 1e-3, 1.0, 30.0):
            assert failure(numbers, eta)[0] is None


def test_indefinite_costs_are_decided_by_existence():
    answered = 0
    for seed in range(40):
        numbers = random_numbers(seed, largest=(3, 2, 4))
        numbers.C = numbers.C - 0.4 * np.eye(numbers.C.shape[-1])
        found, _ = failure(numbers, 1.0)
        try:
            expected = conditioned(numbers).log_evidence
        except AssertionError:  # the oracle's precision has a negative determinant
            assert found is not None
            continue
        if found is None:
            answered += 1
            problem = as_problem(numbers)
            assert float(backward(problem, 1.0).start) / numbers.alpha == pytest.approx(expected, rel=1e-9)
    assert answered >= 5


def test_a_singular_action_cost_is_no_answer_however_it_rounds():
    numbers = scalar(prior=None, R=0.0, Qf=1e-3, B=1.0)
    assert failure(numbers, 0.0)[0] is None
    for B in (0.0, 1e-12):
        assert failure(scalar(prior=None, R=1e9, Qf=-1e9 / max(B, 1) ** 2, B=1.0), 0.0)[0].kind == "action"
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    numbers = next(one for seed in range(99) if (one := random_numbers(seed, flat=True)).sizes[2] == 3)
    n = len(numbers.m1)
    numbers.B, numbers.C[:, n:, :n], numbers.C[:, :n, n:] = numbers.B * 0, 0, 0
    numbers.C[:, n:, n:] = rotation * [1.0, 0.3, 0.0] @ rotation.T
    assert failure(numbers, 0.0)[0].kind == "action"


def test_numbers_that_leave_the_range_say_so():
    found, _ = failure(scalar(T=400, A=1e3, Qf=1.0, prior=None, B=0.0), 0.0)
    assert found.kind == "overflow"
    assert "range of floats" in found.sentence()


def test_of_a_batch_the_first_member_that_fails_is_named():
    problem = as_problem(scalar(W=1.0, Qf=1.0))
    noise = torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)[:, None, None, None]
    batch = replace(problem, noise=noise)
    found = first_failure(batch, backward(batch, -1.5))
    assert found.member == (1,)
    assert "batch member [1]" in found.sentence()


@pytest.mark.parametrize("prior", [1.0, 1e-15, 1e-18])
def test_neither_a_narrow_prior_nor_a_large_coordinate_hides_rewards_without_bound(prior):
    numbers = scalar(T=2, W=1.0, Q=-5.0, S1=0.1, prior=prior)
    assert failure(numbers, 1.0)[0].kind == "outcome"
    problem = as_problem(scalar(T=2, W=1.0, Q=-5.0, S1=0.1, prior=prior))
    wide = replace(
        problem,
        A=torch.eye(2, dtype=torch.float64)[None],
        B=torch.tensor([[[1.0], [0.0]]], dtype=torch.float64),
        offset=problem.offset.new_zeros(1, 2),
        noise=torch.eye(2, dtype=torch.float64)[None],
        cost=torch.diag(torch.tensor([1e17, -5.0, 1.0], dtype=torch.float64))[None],
        linear=problem.linear.new_zeros(1, 3),
        final=type(problem.final)(problem.cost.new_zeros(2, 2), problem.linear.new_zeros(2), problem.final.rho),
        mean=problem.mean.new_zeros(2),
        covariance=torch.eye(2, dtype=torch.float64),
        prior=problem.prior._replace(gain=problem.prior.gain.new_zeros(1, 1, 2)),
    )
    assert first_failure(wide, backward(wide, 1.0)).kind == "outcome"


@pytest.mark.parametrize(("W", "q", "alpha"), [(1e-6, 1e3, 2.0), (0.3, 7.0, 0.7), (1e5, 1e-3, 1.0)])
@pytest.mark.parametrize("start", [False, True])
def test_next_to_a_breakdown_numbers_are_right_or_said_to_be_lost(W, q, alpha, start):
    """A scalar, T = 1, whose state no action moves: V(start) in 60 digits of the very floats that are given."""
    shares = [1 - 2.0**-k for k in range(4, 46, 3)]
    noise, spread = (0.0, W) if start else (W, 0.0)
    model = LinearGaussianModel(
        [[1.0]],
        [[0.0]],
        noise=[[noise]],
        initial=([0.5], [[spread]]),
        horizon=1,
        temperature=alpha,
        reward=QuadraticReward(R=[[1.0]], final=[[q]]),
        action_prior=LinearNormal(L=[[1.0]]),
    )
    kept = 0
    for share in shares:
        eta = -alpha / (W * q) * share
        answer = cai.infer(model, f"risk:eta={eta!r}", throw=False)
        if not answer.status.ok:
            assert answer.status is Status.OUT_OF_RANGE
            assert "near to where messages break down" in answer.details["why"]
            continue
        kept += 1
        with mpmath.workdps(60):
            theta = mpmath.mpf(eta) / alpha
            left = 1 + theta * mpmath.mpf(W) * q
            cost = q / (8 * left) + mpmath.log(left) / (2 * theta) + alpha * mpmath.log(1 + mpmath.mpf(1) / alpha) / 2
            assert abs(answer.details["start"] / float(-cost / alpha) - 1) < 1e-7, share
    assert 5 <= kept < len(shares)
