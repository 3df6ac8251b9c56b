"""Outcomes that are equally good share by their chances, however values are rounded, at eta = +-inf."""

import math

import pytest
import torch
from campaigns import over_seeds

import cai
from cai.models import MDP, TimeTableReward, TrajectoryModel

EXTREMES = ("value-iteration:successors=best", "value-iteration:successors=worst", "risk:eta=inf", "risk:eta=-inf")


@pytest.mark.parametrize("horizon", [4, math.inf])
@pytest.mark.parametrize("backend", EXTREMES)
def test_a_way_whose_rewards_cancel_is_as_good_as_none(backend, horizon):
    chances, rewards = torch.zeros(2, 5, 1, 5, dtype=torch.float64)
    for state, following, chance, reward in (
        (0, 1, 0.5, 0),
        (0, 4, 0.5, 0),
        (1, 2, 1, 0.1),
        (2, 3, 1, 0.2),
        (3, 4, 1, -0.3),
    ):
        chances[state, 0, following], rewards[state, 0, following] = chance, reward
    model = TrajectoryModel(MDP(chances, "s0", terminal=[4], state_names=[f"s{i}" for i in range(5)]), rewards, horizon)
    answer = cai.infer(model, backend)
    assert answer.luck == 0
    assert answer.dynamics(0)[0, 0].tolist() == [0, 0.5, 0, 0, 0.5]


@pytest.mark.parametrize("backend", ["risk:eta=inf", "risk:eta=-inf"])
def test_a_soft_value_of_nothing_is_as_good_as_the_end(backend):
    """log(3/4 + 1/4) is not 0 in floats; where state 0 pays, values are not computed as those near 0 are."""
    chances = torch.tensor([[[0, 1.0], [0, 1.0]], [[0, 1.0], [0, 1.0]]], dtype=torch.float64)
    mdp = MDP(chances, [0.5, 0.5], axes="state-action-state")
    model = TrajectoryModel(mdp, [-0.375, 0.0], 5, discount=0.9375, action_prior=[0.75, 0.25])
    answer = cai.infer(model, backend)
    assert answer.dynamics(0)[1, 0].tolist() == [0, 0.9375]


def telescoping(seed):
    """A model whose trajectories all pay what their first state does, in parts that cancel, from one start."""
    generator = torch.Generator().manual_seed(seed)
    states, actions, steps = (int(torch.randint(2, 6, (), generator=generator)) for _ in range(3))

    def drawn(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    chances = drawn(states, actions, states) * (drawn(states, actions, states) < 0.7)
    chances[..., 0] += 0.1
    paid = drawn(states) * 10.0 ** (4 * drawn(states) - 2) * (drawn(states) < 0.7)
    rewards = (paid[:, None] - paid).expand(steps, actions, states, states).movedim(1, 2).clone()
    rewards[-1] = paid[:, None, None]
    mdp = MDP(chances / chances.sum(-1, keepdim=True), 0, axes="state-action-state")
    prior = drawn(states, actions) + 0.01
    return TrajectoryModel(mdp, TimeTableReward(rewards), steps, action_prior=prior / prior.sum(-1, keepdim=True))


@pytest.mark.parametrize("backend", EXTREMES)
@over_seeds(range(300), quick=25)
def test_where_all_ways_pay_alike_nothing_is_hoped_for(backend, seeds):
    for seed in seeds:
        model = telescoping(seed)
        answer = cai.infer(model, backend)
        assert answer.luck == pytest.approx(0, abs=1e-12), seed
        assert torch.allclose(answer.dynamics(0), model.mdp.dense(), rtol=0, atol=1e-12), seed
