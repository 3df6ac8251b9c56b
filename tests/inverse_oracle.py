"""Objectives of inverse problems by definition, in plain Python: every value by recursion or by summing over paths."""

import dataclasses
import math

import numpy as np
import torch
from oracle import Problem, fixed, log_beta, log_sum, random_problem

from cai.models import MDP, LinearReward, TrajectoryModel

CASES = ("s", "sa", "sas")


@dataclasses.dataclass
class Case:
    """A random tiny problem with features, and demonstrations of it."""

    problem: Problem
    features: np.ndarray
    weights: np.ndarray
    model: TrajectoryModel

    def at(self, weights):
        """The problem with these weights, its features added to the rewards of every outcome."""
        outcomes = []
        for s, actions in enumerate(self.problem.outcomes):
            rows = []
            for a, outcome in enumerate(actions):
                row = []
                for p, following, rewards in outcome:
                    index = {2: (s,), 3: (s, a), 4: (s, a, following)}[self.features.ndim]
                    paid = float(self.features[index] @ np.asarray(weights))
                    row.append((p, following, [reward + paid for reward in rewards]))
                rows.append(row)
            outcomes.append(rows)
        return dataclasses.replace(self.problem, outcomes=outcomes)


def random_case(seed, *, discount=None, deterministic=False, horizon=None, terminals=None, forbidden=False, size=2):
    """A problem whose own reward of any kind stays as it is, and `size` features with random weights beside it."""
    rng = np.random.default_rng(1000 + seed)
    problem = random_problem(
        seed,
        discount=discount,
        deterministic=deterministic,
        horizon=horizon,
        terminals=terminals,
        forbidden=forbidden,
    )
    num_states, num_actions = problem.num_states, problem.num_actions
    shape = {"s": (num_states,), "sa": (num_states, num_actions), "sas": (num_states, num_actions, num_states)}
    features = rng.normal(size=(*shape[CASES[seed % 3]], size))
    features[np.array(problem.terminal)] = 0.0
    weights = rng.normal(size=size)
    reward = problem.model.reward + LinearReward(features, weights, names=[f"f{i}" for i in range(size)])
    return Case(problem, features, weights, problem.model.replace(reward=reward))


def live_steps(problem, states, actions):
    """(t, s, a, s') of the steps out of states that are not terminal."""
    for t, action in enumerate(actions):
        if not problem.terminal[states[t]]:
            yield t, states[t], action, states[t + 1]


def log_likelihood(problem, states, actions, objective):
    """Nats of one demonstration."""
    alpha = problem.temperature
    total = 0.0
    for t, s, a, following in live_steps(problem, states, actions):
        outcomes = problem.outcomes[s][a]
        if objective == "likelihood":
            total += math.log(fixed(problem, s, t)[1][a])
        else:
            reached = [(p, r[t] / alpha) for p, k, r in outcomes if k == following and p > 0]
            if objective == "moments":
                mean = sum(p * r for p, r in reached) / sum(p for p, _ in reached)
                total += problem.discount**t * mean
            else:
                total += math.log(problem.prior[s][a]) + log_sum([math.log(p) + r for p, r in reached])
    if objective == "moments":
        total -= fixed(problem, states[0], 0)[0]
    if objective == "path":
        total -= log_beta(problem, states[0], 0)
    return total


def differences(function, at, step=1e-5):
    """Central differences of a function of a vector, extrapolated once: the error is of order step^4."""
    at = np.asarray(at, dtype=float)
    slopes = []
    for i in range(len(at)):
        unit = np.eye(len(at))[i]
        wide, narrow = (
            (np.asarray(function(at + h * unit)) - np.asarray(function(at - h * unit))) / (2 * h)
            for h in (2 * step, step)
        )
        slopes.append((4 * narrow - wide) / 3)
    return np.stack(slopes)


def tensor(values):
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def fork():
    """A choice at s: a leads to a choice between features +1 and -1, b ends. Terminal: the end."""
    start, choice, end = 0, 1, 2
    chances = np.zeros((3, 2, 3))
    chances[start, 0, choice] = chances[start, 1, end] = 1.0
    chances[choice, :, end] = chances[end, :, end] = 1.0
    features = np.zeros((3, 2, 1))
    features[choice, 0, 0], features[choice, 1, 0] = 1.0, -1.0
    mdp = MDP(chances, start, terminal=[end])
    return TrajectoryModel(mdp, LinearReward(features, [0.0]), 2)
