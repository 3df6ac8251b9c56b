"""Actions that are equally good up to rounding share the mass, in float32 as in float64; greedy takes the first."""

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
