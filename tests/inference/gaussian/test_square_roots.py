"""Costs and noises that are many orders apart: answers of fourteen digits by square roots, or a status."""

import numpy as np
import pytest
import torch
from gaussian_digits import apart, many_digits

import cai
from cai.inference import NotKnown, Status
from cai.inference.gaussian import solve
from cai.models import Flat, LinearGaussianModel, LinearNormal, QuadraticReward


def problem(seed, weight, *, flat, noise, n=2, m=1, T=4, alpha=0.75, first=1.0):
    """The parts of a problem whose final cost is `weight` times its others."""
    rng = np.random.default_rng(seed)

    def covariance(size):
        root = rng.normal(size=(n, n))
        found = size * root @ root.T
        return (found + found.T) / 2

    C = np.eye(n + m)
    C[0, 0] = first
    prior = None if flat else (rng.normal(size=(m, n)), rng.normal(size=m), 0.75 * np.eye(m))
    A, B = np.eye(n) + 0.4 * rng.normal(size=(n, n)), rng.normal(size=(n, m))
    final = (covariance(weight), weight * rng.normal(size=n))
    initial = (rng.normal(size=n), 0.25 * np.eye(n))
    return [
        A,
        B,
        0.2 * rng.normal(size=n),
        covariance(noise),
        C,
        rng.normal(size=n + m),
        final,
        initial,
        T,
        alpha,
        prior,
    ]


def as_model(A, B, c, W, C, g, final, initial, T, alpha, prior, **changes):
    n = len(A)
    reward = QuadraticReward(C[:n, :n], C[n:, n:], C[:n, n:], g[:n], g[n:], final=final)
    parts = {"noise": W, "offset": c, "initial": initial, "horizon": T, "temperature": alpha, "reward": reward}
    prior = Flat() if prior is None else LinearNormal(*prior)
    return LinearGaussianModel(A, B, action_prior=prior, **parts | changes)


def check(answer, want, tolerance=1e-11):
    for t, (K, k, width) in enumerate(want["policies"]):
        for found, expected in ((answer.gain(t), K), (answer.offset(t), k), (answer.covariance(t), width)):
            assert apart(found, expected) < tolerance, t
        assert apart(answer.dynamics(t).A, want["moves"][t]) < tolerance, t
    moments = answer.moments
    for t, (mean, spread, P) in enumerate(zip(want["means"], want["covariances"], want["P"], strict=True)):
        assert np.abs(moments.state_means[t].numpy() - mean.astype(float)).max() < tolerance * (
            1 + np.abs(mean).max()
        ), t
        assert apart(moments.state_covariances[t], spread) < tolerance, t
        assert apart(answer.message(t).P, P) < tolerance, t
    size = max(abs(want[name]) for name in ("start", "return", "kl", "luck"))
    parts = {"return": answer.believed_return, "kl": answer.policy_divergence, "luck": answer.luck}
    for name, found in (parts | {"start": answer.details["start"]}).items():
        assert abs(float(found) - want[name]) < 1e-13 * size, name
    assert float(answer.luck_by_step().sum()) == pytest.approx(float(answer.luck), rel=1e-12)


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("noise", [0.25, 1e-8, 0.0])
@pytest.mark.parametrize("weight", [1e6, 1e10, 1e15])
def test_an_end_that_outweighs_all_else_costs_no_digits(weight, noise, flat):
    for eta in (0.0, 1.0, 1e-5):
        parts = problem(int(weight) % 7, weight, flat=flat, noise=noise)
        check(cai.infer(as_model(*parts), "risk", eta=eta), many_digits(*parts, eta))


@pytest.mark.parametrize("weight", [1e8, 1e10])
def test_caution_keeps_its_digits_where_noise_is_small(weight):
    parts = problem(5, weight, flat=False, noise=1e-4 / weight)
    check(cai.infer(as_model(*parts), "risk", eta=-1e-6), many_digits(*parts, -1e-6), 1e-8)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_actions_that_cost_more_than_their_prior_by_orders_cost_no_digits(eta):
    parts = problem(3, 1e-8, flat=False, noise=0.25)
    parts[4] = np.diag([1.0, 1.0, 2.0**50])
    parts[10] = (np.array([[-1.0, 0.5]]), np.array([-0.75]), np.array([[2.0**-16]]))
    check(cai.infer(as_model(*parts), "risk", eta=eta), many_digits(*parts, eta))


@pytest.mark.parametrize("size", [2.0**34, 2.0**44])
def test_noise_along_a_ray_that_outweighs_rewards_costs_no_digits(size):
    ray = np.array([[0.75], [-1.25]])
    for eta in (1.0, 0.5):
        parts = problem(2, 1.0, flat=False, noise=0.0)
        parts[3], parts[7] = size * ray @ ray.T, (parts[7][0], size * ray @ ray.T)
        check(cai.infer(as_model(*parts), "risk", eta=eta), many_digits(*parts, eta), 1e-9)


@pytest.mark.parametrize("eta", [1e-5, 0.5, 1.0])
@pytest.mark.parametrize("weight", [2.0**26, 2.0**40])
def test_coordinates_without_noise_take_no_digits_from_those_with_noise(weight, eta):
    """What is certain is a row of 2^100 beside the others, which it must not pass through."""
    ray = np.array([[0.75], [-0.5], [0.0]])
    for scale in (1.0, 2.0**20):
        parts = problem(1, weight, flat=False, noise=0.0, n=3, m=2)
        parts[3], parts[7] = ray @ ray.T, (parts[7][0], scale * np.diag([0.0, 0.5, 0.0]))
        check(cai.infer(as_model(*parts), "risk", eta=eta), many_digits(*parts, eta), 1e-9)


@pytest.mark.parametrize("weight", [1e12, 1e14])
def test_costs_that_are_no_squares_answer_with_all_digits_or_a_status(weight):
    seen = set()
    for seed in range(6):
        parts = problem(seed, weight, flat=True, noise=0.25, first=-0.125)
        answer = cai.infer(as_model(*parts), "variational", throw=False)
        seen.add(answer.status)
        assert answer.status.ok or "digits were lost: the answer is known to" in answer.details["why"]
        if answer.status.ok:
            want = many_digits(*parts, 0.0)["policies"]
            assert max(apart(answer.gain(t), policy[0]) for t, policy in enumerate(want)) < 1e-8
    assert Status.OUT_OF_RANGE in seen


def test_members_of_a_batch_are_those_asked_alone():
    parts = problem(4, 1.0, flat=False, noise=0.25)
    final = parts[6]
    weights = torch.tensor([1.0, 1e12]).double()
    ends = (weights[:, None, None] * torch.as_tensor(final[0]), weights[:, None] * torch.as_tensor(final[1]))
    for name in ("variational", "exact"):
        parts[6] = ends
        together = cai.infer(as_model(*parts), name)
        for b in range(2):
            parts[6] = tuple(end[b] for end in ends)
            alone = cai.infer(as_model(*parts), name)
            assert torch.equal(together.conduct.gain[b], alone.conduct.gain)
            assert float(together.elbo[b]) == float(alone.elbo)
            assert torch.allclose(together.moments.state_covariances[b], alone.moments.state_covariances, rtol=1e-12)


def test_gradients_pass_through_digits_that_square_roots_keep():
    parts = problem(4, 1e8, flat=True, noise=0.25)
    A = torch.as_tensor(parts[0])

    def worth(A):
        return cai.infer(as_model(A, *parts[1:]), "variational").elbo

    given = A.clone().requires_grad_()
    slope = torch.autograd.grad(worth(given), given)[0]
    step = torch.zeros_like(A)
    step[0, 1] = 2.0**-16
    numeric = (worth(A + step) - worth(A - step)) / 2.0**-15
    assert float(slope[0, 1]) == pytest.approx(float(numeric), rel=1e-4)


def test_gradients_that_lost_their_digits_are_refused():
    parts = problem(4, 1e14, flat=True, noise=0.25)
    A = torch.as_tensor(parts[0]).clone().requires_grad_()
    gain = cai.infer(as_model(A, *parts[1:]), "variational").gain(0)
    with pytest.raises(
        NotKnown, match=r"square roots does not know gradients: .* has lost its digits; bring them nearer"
    ):
        torch.autograd.grad(gain.sum(), A)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("flat", [True, False])
def test_nothing_is_rounded_by_costs_that_an_action_has_no_part_in(seed, flat):
    """Without a final cost the last gain is that of the prior, exactly, however unevenly states cost."""
    A, B, c, W, _, g, _, initial, T, alpha, prior = problem(seed, 1.0, flat=flat, noise=0.5, n=3, m=2)
    rng = np.random.default_rng(seed)
    root = np.zeros((5, 5))
    root[:3, :3] = rng.normal(size=(3, 3)) * [1e4, 1.0, 1e2]
    root[3:, 3:] = rng.normal(size=(2, 2)) * [1e-2, 1e-3]
    parts = [A, B, 0 * c, W, root.T @ root, 0 * g, (0 * A, np.zeros(3)), (0 * c, initial[1]), T, alpha, prior]
    if prior is not None:
        parts[-1] = (0 * prior[0], 0 * prior[1], prior[2])
    for eta in (0.0, 1.0):
        answer = cai.infer(as_model(*parts), "risk", eta=eta)
        assert bool((answer.gain(T - 1) == 0).all())
        check(answer, many_digits(*parts, eta), 1e-10)


def test_accounts_of_small_numbers_are_not_held_against_the_noise_of_other_members():
    ray = np.array([[0.75], [-1.25]])
    noise = np.stack([2.0**40 * ray @ ray.T, 0.25 * np.eye(2)])
    costs = np.array([1.0, 1e-9])[:, None, None, None] * np.eye(2)
    parts = problem(2, 1.0, flat=False, noise=0.0)
    prior = LinearNormal(L=[[0.7]])

    def answer(noise, costs):
        reward = QuadraticReward(costs, costs[..., :1, :1])
        model = LinearGaussianModel(
            *parts[:2],
            noise=noise,
            initial=(np.zeros(2), 0.25 * np.eye(2)),
            horizon=4,
            reward=reward,
            action_prior=prior,
        )
        return cai.infer(model, "exact")

    together = answer(noise[:, None], costs)
    for b in range(2):
        assert float(together.elbo[b]) == pytest.approx(float(answer(noise[b], costs[b]).elbo), rel=1e-12)


def test_squares_far_from_all_states_answer_with_their_digits_or_a_status():
    """A linear cost beside a quadratic one of next to nothing: what completes the square outweighs the answer."""
    seen = set()
    for size in (1.0, 1e-4, 1e-10, 1e-12, 1e-14):
        parts = problem(2, 1e5, flat=True, noise=0.25, T=2)
        parts[2], parts[4], parts[5] = 0 * parts[2], np.diag([size, size, 1.0]), np.array([0.375, -0.25, 0.0])
        parts[6], parts[7] = (parts[6][0], np.zeros(2)), (np.zeros(2), 0.25 * np.eye(2))
        answer = cai.infer(as_model(*parts), "exact", throw=False)
        seen.add(answer.status)
        want = many_digits(*parts, 1.0)
        assert not answer.status.ok or apart(answer.details["start"], want["start"]) < 1e-8, size
    assert Status.SUCCESS in seen


def test_the_plain_pass_answers_where_it_keeps_the_digits_that_square_roots_lose():
    """A linear cost outweighs the quadratic one beside it: 1/2 |u|^2 of its square is 1e8 times V(start)."""
    parts = [np.array([[x]]) for x in (-0.0625, -8.875)]
    parts += [np.array([1.625]), np.zeros((1, 1)), np.array([[1.125, -0.125], [-0.125, 0.0195]]) * 2.0**-10]
    parts += [np.array([7.5, 247.25]), (np.array([[19408.0]]), np.array([-1.0]))]
    parts += [(np.array([-0.375]), np.array([[8.125]])), 1, 0.625]
    parts += [(np.zeros((1, 1)), np.array([0.5625]), np.array([[85.0]]))]
    check(cai.infer(as_model(*parts), "variational"), many_digits(*parts, 0.0), 1e-12)


@pytest.mark.parametrize(
    ("part", "name"),
    [("belief", "A"), ("belief", "offset"), ("moments", "action_means"), ("account", "believed_return")],
)
def test_what_q_does_is_held_against_the_same_shaken(monkeypatch, part, name):
    """One entry of the shaken answer is a millionth off: that is what is known of it."""
    shaken, answered = [], solve.rooted_answer

    def off(*given):
        found = answered(*given)
        shaken.append(found)
        whole = getattr(found, part)
        return (
            found
            if len(shaken) < 2
            else found._replace(**{part: whole._replace(**{name: 1.000001 * getattr(whole, name)})})
        )

    monkeypatch.setattr(solve, "rooted_answer", off)
    parts = problem(2, 1e8, flat=False, noise=0.25)
    answer = cai.infer(as_model(*parts), "exact", throw=False)
    assert answer.status is Status.OUT_OF_RANGE
    assert "digits were lost: the answer is known to" in answer.details["why"]
