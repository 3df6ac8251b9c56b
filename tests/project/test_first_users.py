"""What first users met: questions that once had a wrong answer, no answer, or an answer without a word of warning."""

import math

import pytest
import torch
from refusals import check, model

from cai.inference import GaussianActions, InferenceError, ObservationPolicy, RestrictedVariational, infer
from cai.models import MDP, TrajectoryModel, bridge
from cai.studies.comparison import compare


@pytest.mark.parametrize("seed", [1.5, -1, True, 2**63, "a"])
def test_a_seed_that_no_generator_takes_is_refused(seed):
    for ask in (
        lambda: infer(model([1.0, 0.0, 0.0]), "smc", seed=seed),
        lambda: compare(model(1.0), ["smc"], seed=seed),
    ):
        check(ask, ValueError, r"seed is .*give a whole number from 0 to 2\^63 - 1")


@pytest.mark.parametrize("name", ["exact", "variational", "value-iteration", "risk:eta=0.5", "risk:eta=-0.5"])
def test_what_keeps_an_endless_answer_away_is_named(name):
    paid = bridge(horizon=math.inf, goal_reward=50.0, step_cost=-1.0)
    with pytest.raises(InferenceError, match=r"from state \(0,1\) on values grow without end"):
        infer(paid, name)
    (row,) = compare(paid, [name]).rows
    assert "grow without end" in row.detail


@pytest.mark.parametrize("name", ["exact", "variational", "value-iteration"])
def test_a_reward_for_entering_an_end_keeps_no_answer_away(name):
    endless, long = (infer(bridge(horizon=horizon), name) for horizon in (math.inf, 2000))
    assert float(endless.elbo) == pytest.approx(float(long.elbo), abs=1e-9)


def test_fixed_dynamics_ask_for_expected_rewards_below_zero():
    """An outcome that pays is no matter where the action costs on average: the backup sees no more than that."""
    chances = torch.tensor([[[0.5, 0.5, 0], [0, 0.9, 0.1]], [[0.2, 0.2, 0.6], [1, 0, 0]], [[0, 0, 1], [0, 0, 1]]])
    mdp = MDP(chances.double() / chances.double().sum(-1, keepdim=True), [1, 0, 0], terminal=[2])
    rewards = torch.zeros(3, 2, 3, dtype=torch.float64)
    rewards[0], rewards[1] = -1.0, -2.0
    rewards[1, 0, 2] = 0.5
    expected = (mdp.dense() * rewards).sum(-1)
    by_outcome = infer(TrajectoryModel(mdp, rewards, math.inf), "variational")
    by_mean = infer(TrajectoryModel(mdp, expected, math.inf), "variational")
    assert float(by_outcome.elbo) == pytest.approx(float(by_mean.elbo), abs=1e-9)


def test_few_effective_particles_are_reported():
    with pytest.raises(InferenceError, match=r"few particles.*lookahead='soft-value'.*at some step 1\.\d* of 1000"):
        infer(bridge(), "smc", lookahead=None)


def test_symmetry_does_not_hold_a_restricted_policy_back():
    """Two blind steps must agree; the prior is a point of symmetry where no gradient shows."""
    chances = torch.zeros(3, 2, 3, dtype=torch.float64)
    chances[0, 0, 1] = chances[0, 1, 2] = 1
    chances[1, :, 1] = chances[2, :, 2] = 1
    rewards = [[0.0, 0.0], [5.0, -5.0], [-5.0, 5.0]]
    problem = TrajectoryModel(MDP(chances, [1.0, 0.0, 0.0]), rewards, horizon=2, temperature=0.5)
    found = infer(problem, RestrictedVariational(policy=ObservationPolicy([0, 0, 0])))
    assert float(found.elbo) == pytest.approx(10 - 2 * math.log(2), abs=1e-6)
    peaks = TrajectoryModel(MDP(torch.ones(1, 3, 1), [1.0]), [[1.0, -5.0, 1.0]], horizon=1)
    hump = infer(peaks, "restricted", policy=GaussianActions([-1.0, 0.0, 1.0], std=0.5), throw=False)
    centres = torch.linspace(-8, 8, 1601).double()[:, None]
    log_policy = (-2 * (torch.tensor([-1.0, 0.0, 1.0]) - centres) ** 2).log_softmax(-1)
    bounds = (log_policy.exp() * (torch.tensor([1.0, -5.0, 1.0]) - log_policy - math.log(3))).sum(-1)
    assert float(hump.elbo) == pytest.approx(float(bounds.max()), abs=1e-3)
