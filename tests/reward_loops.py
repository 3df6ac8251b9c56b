"""A small process, dense and by successors, and a reward factor's check against a loop over (s, a, k, s', t)."""

import math

import pytest
import torch

from cai.models import MDP, TrajectoryModel

S, A, K, T = 4, 2, 3, 3
INF = math.inf
# State 3 is terminal; (0, 0) lists state 1 twice, and state 2 can be left and entered again.
NEXT = [[[1, 1, 2], [0, 2, 3]], [[1, 2, 0], [2, 0, 3]], [[2, 0, 1], [1, 3, 2]], [[3, 3, 3], [3, 3, 3]]]
WEIGHTS = [[[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]] * 4
NAMES = ["a", "b", "c", "end"]
START = [0.5, 0.25, 0.25, 0.0]
OF_STATE = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
OF_ACTION = torch.tensor([[1.0, 2.0], [-3.0, 4.0], [0.25, -0.5], [0.0, 0.0]], dtype=torch.float64)
OF_NEXT = torch.arange(S * A * S, dtype=torch.float64).reshape(S, A, S) - 7
OF_NEXT[3] = 0
OF_OUTCOME = torch.arange(S * A * K, dtype=torch.float64).reshape(S, A, K) - 11
OF_OUTCOME[3] = 0


def listed():
    return MDP.from_successors(NEXT, WEIGHTS, START, terminal=[3], state_names=NAMES)


def dense():
    return MDP(listed().dense(), START, terminal=[3], state_names=NAMES)


def tables(process, reward, horizon=T):
    """[T, S, A, K], what the model reads."""
    model = TrajectoryModel(process, reward, horizon=horizon)
    return torch.stack([model.reward_table(t).expand(process.probabilities.shape) for t in range(horizon)])


def loop(process, function, horizon=T):
    """[T, S, A, K] of function(s, a, k, s', t) in plain Python, 0 in the terminal state."""
    result = torch.zeros(horizon, *process.probabilities.shape, dtype=torch.float64)
    for t in range(horizon):
        for s in range(S - 1):
            for a in range(A):
                for k in range(process.num_outcomes):
                    s_next = k if process.is_dense else NEXT[s][a][k]
                    result[t, s, a, k] = function(s, a, k, s_next, t)
    return result


def agree(process, reward, function):
    torch.testing.assert_close(tables(process, reward), loop(process, function), rtol=0, atol=1e-14)


both = pytest.mark.parametrize("build", [dense, listed])


def slope(build, values, step=1e-6):
    """Central differences of build(values), a number."""
    result = []
    for i in range(len(values)):
        change = torch.zeros_like(values)
        change[i] = step
        result.append((build(values + change) - build(values - change)) / (2 * step))
    return torch.stack(result)
