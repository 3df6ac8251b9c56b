"""Processes as files and other libraries leave them: ends without rows, rounded tables, a start that is one state."""

import numpy as np
import pytest
import torch

import cai
from cai.models import MDP, TrajectoryModel

NAMES = ["hall", "stairs", "exit"]
TABLE = np.array([[[0.0, 0.5, 0.5], [0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], [[0.0, 0.0, 1.0]] * 2])


def values(mdp, reward=-1.0):
    return cai.infer(TrajectoryModel(mdp, reward, 6), "variational").values


@pytest.mark.parametrize(
    "available", [None, [[True, True], [True, True], [False, False]], [[True, True], [True, True], [True, False]]]
)
def test_terminal_states_need_no_rows(available):
    want = values(MDP(TABLE, 0, terminal=2))
    bare = TABLE.copy()
    bare[2] = 0.0
    lists = [[[1, 2], [1]], [[0], [2]], []], [[[0.5, 0.5], [1.0]], [[1.0], [1.0]], []]
    for mdp in (
        MDP(bare, 0, available=available, terminal=2),
        MDP.from_successors(*lists, 0, available=available, terminal="exit", state_names=NAMES),
        MDP.from_sparse([torch.tensor(bare[:, a]).to_sparse() for a in range(2)], 0, available=available, terminal=2),
    ):
        torch.testing.assert_close(values(mdp), want)
        torch.testing.assert_close(mdp.dense()[2], torch.tensor(TABLE[2]))
        assert mdp.available[2].any()


def test_a_terminal_state_without_actions_stays_whatever_its_row_says():
    table = TABLE.copy()
    table[2] = [[1.0, 0.0, 0.0]] * 2
    mdp = MDP(table, 0, available=[[True, True], [True, True], [False, False]], terminal=2)
    torch.testing.assert_close(values(mdp), values(MDP(TABLE, 0, terminal=2)))
    with pytest.raises(ValueError, match="terminal state 2 can be left"):
        MDP(table, 0, available=[[True, True], [True, True], [True, False]], terminal=2)


@pytest.mark.parametrize("seed", range(5))
def test_tables_that_were_float32_once_are_within_tolerance(seed):
    random = torch.Generator().manual_seed(seed)
    single = torch.randn(40, 3, 40, generator=random).mul(3).softmax(-1)
    for table in (single, single.double(), single.numpy().astype(np.float64), single.tolist()):
        torch.testing.assert_close(MDP(table, 0).dense().sum(-1), torch.ones(40, 3, dtype=torch.float64))
    start = torch.rand(40, generator=random)
    start = (start / start.sum()).double()
    assert float(MDP(single, start).initial.sum()) == pytest.approx(1.0, abs=1e-12)


def test_rounded_files_are_normalised_when_asked():
    random = np.random.default_rng(0)
    exact = random.dirichlet(np.ones(3), (3, 2))
    rounded = np.round(exact, 4)
    rounded[0, 0] = [0.3333] * 3
    with pytest.raises(ValueError, match=r"transitions\[0, 0\] sums to 0\.9999,.*normalize=True"):
        MDP(rounded, 0)
    mdp = MDP(rounded, [0.3333] * 3, normalize=True)
    torch.testing.assert_close(mdp.dense(), torch.tensor(rounded / rounded.sum(-1, keepdims=True)))
    torch.testing.assert_close(mdp.initial, torch.full((3,), 1 / 3, dtype=torch.float64))
    listed = MDP.from_successors(np.broadcast_to(np.arange(3), (3, 2, 3)), rounded, 0, normalize=True)
    torch.testing.assert_close(listed.dense(), mdp.dense())


@pytest.mark.parametrize("start", ["stairs", 1, np.int64(1), torch.tensor(1), {"stairs": 1.0}, {1: 0.5, "stairs": 0.5}])
def test_the_start_may_be_one_state(start):
    assert MDP(TABLE, start, terminal=2, state_names=NAMES).initial.tolist() == [0.0, 1.0, 0.0]
