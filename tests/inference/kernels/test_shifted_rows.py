"""Rows of successors that lie side by side, as on grids, against one recursion in numpy: values and their gradient."""

import numpy as np
import pytest
import torch
from native_kernel import needs_native

import cai
from cai.models import MDP, TrajectoryModel

pytestmark = needs_native

HORIZON = 37
ACTIONS, OUTCOMES = 3, 4


def grid(rows, columns, generator):
    """(next states [S, A, K], probabilities, the same as [S, A, S]): neighbours, and the borders hold."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    moves = generator.permuted(np.tile([(0, 1), (1, 0), (0, -1), (-1, 0), (0, 2)], (ACTIONS, 1, 1)), axis=1)
    following = np.stack(
        [
            [(row + down).clip(0, rows - 1) * columns + (column + right).clip(0, columns - 1) for down, right in action]
            for action in moves[:, :OUTCOMES]
        ]
    ).transpose(2, 0, 1)
    chances = generator.random(following.shape) + 0.1
    chances /= chances.sum(-1, keepdims=True)
    table = np.zeros((*following.shape[:2], rows * columns))
    states, actions, _ = np.indices(following.shape)
    np.add.at(table, (states, actions, following), chances)
    return following, chances, table


def oracle(table, reward, discount, terminal):
    """Values [T, S], and the visits [S, A] that a posterior with uniform start expects."""
    lives, values, q_values = ~terminal, [np.zeros(len(table))], []
    for _ in range(HORIZON):
        arriving = np.log(table @ (discount * np.exp(values[-1]) + (1 - discount)))
        q_values.append(reward + arriving)
        values.append(np.where(lives, np.log(np.exp(q_values[-1]).mean(1)), 0.0))
    visits, here = np.zeros(reward.shape), np.exp(values[-1]) / np.exp(values[-1]).sum()
    for t in reversed(range(HORIZON)):
        flow = np.where(lives, here, 0.0)[:, None] * np.exp(q_values[t] - values[t + 1][:, None]) / reward.shape[1]
        visits += flow
        here = np.einsum("sa,san->n", flow / np.exp(q_values[t] - reward), table) * discount * np.exp(values[t])
    return np.stack(values[:0:-1]), visits


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize(
    ("rows", "columns", "ends"), [(1, 9, 0), (3, 7, 0), (2, 8, 1), (27, 41, 0), (27, 41, 5), (3, 520, 2)]
)
def test_values_and_gradients_on_grids(rows, columns, ends, discount, dtype, tolerance):
    """Rows of fewer than eight states, of more, and across the blocks of 512 that are computed together."""
    generator = np.random.default_rng(rows * columns + ends)
    following, chances, table = grid(rows, columns, generator)
    terminal = np.zeros(len(table), dtype=bool)
    terminal[generator.choice(len(table), ends, replace=False)] = True
    reward = -generator.random((len(table), ACTIONS))
    for state in terminal.nonzero()[0]:
        following[state], chances[state], reward[state] = state, 1 / OUTCOMES, 0.0
        table[state] = np.arange(len(table)) == state
    mdp = MDP.from_successors(
        following, chances, np.full(len(table), 1 / len(table)), terminal=terminal.nonzero()[0].tolist()
    )
    values, visits = oracle(table, reward, discount, terminal)
    weight = torch.from_numpy(reward).to(dtype).requires_grad_()
    model = TrajectoryModel(mdp, weight.detach(), HORIZON, discount=discount).to(dtype=dtype)
    found = cai.infer(model, "exact", kernel="native").values.numpy()
    assert np.abs(found - values).max() < tolerance * HORIZON

    model = model.replace(reward=weight)
    cai.infer(model, "exact", kernel="native", keep="evidence").log_evidence.backward()
    assert np.abs(weight.grad.numpy() - visits).max() < tolerance
