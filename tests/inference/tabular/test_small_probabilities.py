"""Trajectories whose probability is too small for a float: log_prob is log q, and -inf for what is impossible alone."""

import math

import pytest
import torch

import cai
from cai.models import MDP, TrajectoryModel

MOVES = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.0, 1.0]]], dtype=torch.float64)
STATES = torch.tensor([[0, 0, 1, 1], [1, 0, 0, 1], [0, 1, 0, 0]])
ACTIONS = torch.tensor([[0, 1, 1], [0, 0, 1], [0, 0, 0]])  # the last one cannot happen


def problem(listed=False, **options):
    mdp = MDP(MOVES, [0.5, 0.5])
    if listed:
        successors = torch.tensor([[[0, 1, 0], [0, 1, 1]], [[0, 1, 0], [0, 1, 1]]])
        weights = torch.stack([MOVES[..., 0] / 2, MOVES[..., 1] / 2, torch.zeros(2, 2)], -1)
        weights[..., 2] = torch.tensor([[0.5, 0.5], [0.25, 0.5]])
        weights[1, 0] = torch.tensor([0.25, 0.5, 0.25])
        mdp = MDP.from_successors(successors, weights, [0.5, 0.5])
    rewards = torch.tensor([[0.0, -1000.0], [-2000.0, 0.0]], dtype=torch.float64)
    return TrajectoryModel(mdp, rewards, horizon=3, **options)


def wanted(model, answer):
    """log q of an exact posterior: the log joint minus the evidence."""
    total = model.mdp.initial[STATES[:, 0]].log() - float(answer.log_evidence)
    for t in range(3):
        s, a, following = STATES[:, t], ACTIONS[:, t], STATES[:, t + 1]
        total = total + model.log_action_prior[s, a] + model.reward_table(0)[s, a, 0] / model.temperature
        total = total + (model.discount * model.mdp.dense()[s, a, following]).log()
    return total


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("backend", ["exact", "exact:keep=evidence", "optimistic", "enumeration"])
def test_exact_answers(backend, discount, listed):
    model = problem(listed, discount=discount)
    answer = cai.infer(model, backend)
    assert torch.allclose(answer.log_prob(STATES, ACTIONS), wanted(model, answer), rtol=1e-12)
    assert answer.log_prob(STATES, ACTIONS)[2] == -math.inf


def test_saved_answers_and_starts(tmp_path):
    model = problem().replace(temperature=0.5)
    for backend in ("exact", "risk:eta=0.5", "variational", "enumeration"):
        answer = cai.infer(model, backend)
        scores = answer.log_prob(STATES, ACTIONS)
        assert bool(torch.isfinite(scores[:2]).all())
        assert torch.equal(cai.load(answer.save(tmp_path / f"{backend[:4]}.cai")).log_prob(STATES, ACTIONS), scores)
    costly = TrajectoryModel(MDP(MOVES, [0.5, 0.5]), [0.0, -900.0], horizon=1)
    answer = cai.infer(costly, "exact")
    assert float(answer.initial[1]) == 0.0
    scores = answer.log_prob([[1, 1]], [[1]])
    assert float(scores[0]) == pytest.approx(-900 + math.log(0.5))


def test_fixed_dynamics_and_risk_agree_with_their_values():
    for backend in ("variational", "risk:eta=0.5", "risk:eta=-1"):
        answer = cai.infer(problem(), backend)
        q_values, values = answer.q_values, answer.values
        policy = (q_values - values[..., None]) + answer.model.log_action_prior
        for t in range(3):
            assert torch.allclose(answer._log_policy(t), policy[t], atol=1e-9)


def test_particles_of_programs():
    def program():
        import pyro
        from pyro.distributions import Categorical

        s = pyro.sample("s_1", Categorical(torch.tensor([0.5, 0.5])))
        pyro.sample("a_1", Categorical(torch.tensor([0.5, 0.5])))
        pyro.factor("O_1", torch.where(s == 0, 0.0, -900.0))

    answer = cai.infer(program, "importance", num_particles=4000, throw=False)
    got = answer.log_prob([[0], [1]], [[0], [0]])
    assert torch.allclose(got, torch.tensor([0.5, 0.5]).double().log() + torch.tensor([0.0, -900.0]), atol=0.2)
