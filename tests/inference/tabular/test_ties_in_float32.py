"""Actions that are equally good up to rounding share the mass, in float32 as in float64; greedy takes the first."""

import math

import numpy as np
import pytest
import torch

import cai
from cai.models import MDP, TrajectoryModel

HARD = ["value-iteration", "value-iteration:successors=best"]


def alike(seed, better=0.0, discount=1.0):
    """Actions that list the same outcomes in different orders, so that their sums are rounded differently.

    Args:
        better: how much more the last action pays everywhere, relative to the largest reward.
    """
    draw = np.random.default_rng(seed)
    size, actions = int(draw.integers(4, 9)), int(draw.integers(2, 5))
    chances, paid = draw.dirichlet(np.ones(size), size=size), draw.normal(size=(size, size))
    orders = np.stack([draw.permutation(size) for _ in range(actions)])
    leads = np.broadcast_to(orders, (size, actions, size))
    rewards = paid[:, orders]
    rewards[:, -1] += better * np.abs(paid).max()
    mdp = MDP.from_successors(leads.copy(), chances[:, orders], np.eye(size)[0])
    reward = cai.models.OutcomeReward(rewards)
    return TrajectoryModel(mdp, reward, horizon=int(draw.integers(1, 12)), discount=discount)


@pytest.mark.parametrize("backend", HARD)
@pytest.mark.parametrize("discount", [1.0, 0.875])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_hard_choices_among_equals_are_the_prior(backend, discount, dtype):
    for seed in range(25):
        model = alike(seed, discount=discount)
        answer = cai.infer(model.to(dtype=dtype), backend)
        assert float((answer.action_probs - 1 / model.mdp.num_actions).abs().max()) <= 1e-6, seed


@pytest.mark.parametrize("backend", [*HARD, "max-product", "exact", "variational"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_greedy_policies_take_the_first_of_equals(backend, dtype):
    for seed in range(25):
        answer = cai.infer(alike(seed).to(dtype=dtype), backend)
        assert bool((cai.extract_policy(answer, "greedy").action_probs[..., 0] == 1).all()), seed


@pytest.mark.parametrize("backend", [*HARD, "max-product", "exact", "variational"])
def test_what_is_better_by_more_than_rounding_is_chosen_in_float32(backend):
    for seed in range(25):
        answer = cai.infer(alike(seed, better=1e-3).to(dtype=torch.float32), backend)
        assert bool((cai.extract_policy(answer, "greedy").action_probs[..., -1] == 1).all()), seed


def two_ways(given, better=0.0, criterion=None):
    """From state 0, what is paid at once or in two steps, as decimals: 0.3 against 0.1 + 0.2, times a factor.

    Args:
        given: TrajectoryModel's discount; by the average criterion states 1 and 2 lead back in as many steps.
        better: how much more the second way pays, relative to the first.
        criterion: of the model.
    """
    P = np.zeros((4, 2, 4))
    P[0, 0, 1] = P[0, 1, 2] = P[1, :, 3] = P[2, :, 3] = P[3, :, 0 if criterion else 3] = 1
    paid = np.array([[0.3, 0.1], [0.0, 0.0], [0.2, 0.2], [0.0, 0.0]])
    paid[2] /= given["discount"] if given else 1.0  # it comes a step later
    paid[0, 1] += better * 0.3
    ends = {} if criterion else {"terminal": [3]}
    mdp = MDP(P, np.eye(4)[0], axes="state-action-state", **ends)
    given = {"criterion": criterion} if criterion else given
    return TrajectoryModel(mdp, -paid, horizon=math.inf, **given)


INFINITE = [(discount, None) for discount in (1.0, 0.875, 0.3)] + [(1.0, "average")]


@pytest.mark.parametrize("successors", ["expected", "best", "worst"])
@pytest.mark.parametrize(("discount", "criterion"), INFINITE)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_over_infinite_horizons_equals_share_too(successors, discount, criterion, dtype):
    if successors != "expected" and discount < 1:
        pytest.skip("a fall is one of the outcomes, and the best or the worst of them")
    for better, want in ((0.0, 0.5), (1e-3, 1.0)):
        model = two_ways({} if criterion else {"discount": discount}, -better, criterion).to(dtype=dtype)
        answer = cai.infer(model, f"value-iteration:successors={successors}")
        assert answer.action_probs[0, 0].tolist() == [pytest.approx(1 - want), pytest.approx(want)], better


def test_what_is_better_by_more_than_float32_rounds_is_chosen_over_an_infinite_horizon():
    for scale in (1e-10, 1.0, 1e10):
        model = two_ways({"discount": 0.875}, -1e-4)
        paid = model.reward_table(0)[..., 0] * scale
        model = TrajectoryModel(model.mdp, paid, horizon=math.inf, discount=0.875).to(dtype=torch.float32)
        assert cai.infer(model, "value-iteration").action_probs[0, 0].tolist() == [0.0, 1.0], scale
