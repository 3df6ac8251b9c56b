"""Rewards given as sparse matrices pay what the full table pays, on processes of either kind."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import cai
from cai.models import MDP, Goal, TrajectoryModel, as_reward

S, A = 5, 3


def drawn(seed):
    """(transitions [S, A, S], rewards [S, A, S], 0 in most places)."""
    random = np.random.default_rng(seed)
    weights = random.random((S, A, S)) * (random.random((S, A, S)) < 0.5)
    weights[..., 0] += 0.1
    return weights / weights.sum(-1, keepdims=True), random.normal(size=(S, A, S)) * (random.random((S, A, S)) < 0.6)


WAYS = {
    "csr of each action": lambda table: [sp.csr_matrix(table[:, a]) for a in range(A)],
    "coo array, all in one": lambda table: sp.coo_array(table.reshape(S * A, S)),
    "dok matrix, which is a dict too": lambda table: sp.dok_matrix(table.reshape(S * A, S)),
    "torch coo": lambda table: torch.tensor(table.reshape(S * A, S)).to_sparse(),
    "torch csr of each action": lambda table: [torch.tensor(table[:, a]).to_sparse_csr() for a in range(A)],
}


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(3))
def test_sparse_is_full(way, seed):
    table, rewards = drawn(seed)
    full = MDP(table, 0)
    for mdp in (full, MDP.from_sparse(WAYS["csr of each action"](table), 0)):
        for more in (None, Goal(1, 2.0)):
            reward = as_reward(WAYS[way](rewards)) + (more or 0.0)
            got = cai.infer(TrajectoryModel(mdp, reward, 4)).q_values
            want = cai.infer(TrajectoryModel(full, as_reward(rewards) + (more or 0.0), 4)).q_values
            torch.testing.assert_close(got, want)


def test_it_is_stored_and_keeps_gradients(tmp_path):
    table, rewards = drawn(7)
    model = TrajectoryModel(MDP(table, 0), WAYS["csr of each action"](rewards), 4)
    stored = cai.load(model.save(tmp_path / "model.cai"))
    torch.testing.assert_close(cai.infer(stored).values, cai.infer(model).values)
    values = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    entries = torch.sparse_coo_tensor(torch.tensor([[0, 4], [1, 2]]), values, (S * A, S), check_invariants=True)
    cai.infer(TrajectoryModel(MDP(table, 0), entries, 4)).log_evidence.backward()
    assert bool((values.grad != 0).any())


@pytest.mark.parametrize(
    ("reward", "error", "pattern"),
    [
        (lambda: sp.csr_matrix(np.ones((S, A))), ValueError, r"shape \[5, 3\].*\[S \* A, S\] = \[15, 5\].*toarray"),
        (lambda: [sp.csr_matrix(np.ones((S, S)))] * 2, ValueError, r"shape 2 x \[5, 5\].*A = 3"),
        (lambda: [sp.csr_matrix(np.ones((S, S))), np.ones((S, S))], TypeError, r"reward\[1\] is a ndarray"),
        (lambda: [sp.csr_matrix(np.ones((S, A)))] * A, ValueError, r"\[5, 3\].*\[S, S\] for each action"),
        (lambda: sp.csr_matrix(np.full((S * A, S), np.nan)), ValueError, r"is NaN"),
    ],
)
def test_refused(reward, error, pattern):
    with pytest.raises(error, match=pattern):
        TrajectoryModel(MDP(drawn(0)[0], 0), reward(), 4)
