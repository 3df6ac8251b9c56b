"""Filters of long runs and of many, beside the steps with autograd history; `benchmarks.filtering` has a plain loop."""

import numpy as np
import pytest
import torch
from campaigns import each_seed

from cai.inference import filter_states, observation_log_likelihood, smooth_states
from cai.models import MDP, ObservationModel, TrajectoryModel


def drawn(seed, *, wide=True):
    """A random process and observation model: listed or dense, zeros and tiny chances, ends, missing actions."""
    rng = np.random.default_rng(seed)
    size, actions, shown = int(rng.integers(1, 7)), int(rng.integers(1, 4)), int(rng.integers(1, 4))
    table = rng.dirichlet(np.full(size, 0.3), (size, actions))
    table[rng.random(table.shape) < 0.3] = 0.0
    if wide:
        table[rng.random(table.shape) < 0.2] *= 1e-150
    table[..., 0] += 1e-3
    table /= table.sum(-1, keepdims=True)
    rows = rng.dirichlet(np.full(shown, 0.5), (actions, size) if rng.random() < 0.5 else size) + 1e-4
    rows[..., 0] *= 1e-120 if wide and rng.random() < 0.3 else 1.0
    rows /= rows.sum(-1, keepdims=True)
    terminal = rng.random(size) < 0.2
    table[terminal] = np.eye(size)[terminal][:, None]
    start = rng.dirichlet(np.full(size, 0.5))
    return table, rows, start, terminal, rng


def process(table, start, terminal, listed):
    if listed:
        nexts = np.broadcast_to(np.arange(table.shape[-1]), table.shape)
        return MDP.from_successors(nexts, table, start, terminal=terminal)
    return MDP(table, start, terminal=terminal)


@each_seed(range(300), quick=8)
def test_loops_over_arrays_are_the_steps_with_history(seed):
    """One run, a batch of runs, and the torch steps that gradients go through: the same numbers."""
    table, rows, start, terminal, rng = drawn(seed)
    mdp = process(table, start, terminal, seed % 2 == 0)
    world = mdp if seed % 3 else TrajectoryModel(mdp, 0.0, 5, discount=0.9)
    first = rows[0] if rows.ndim == 3 else None
    model = ObservationModel(rows, first=first)
    learning = ObservationModel(torch.tensor(rows, requires_grad=True), first=first)
    length = int(rng.integers(0, 90))
    shown, actions = rows.shape[-1], table.shape[1]
    seen = [[None if rng.random() < 0.1 else int(rng.integers(shown)) for _ in range(length + 1)] for _ in range(3)]
    taken = rng.integers(actions, size=(3, length))
    for function in (filter_states, smooth_states, observation_log_likelihood):
        together = function(world, model, seen, taken)
        for i in range(3):
            alone = function(world, model, seen[i], taken[i])
            slow = function(world, learning, seen[i], taken[i]).detach()
            torch.testing.assert_close(alone, slow, rtol=1e-9, atol=1e-11)
            torch.testing.assert_close(together[i], alone, rtol=1e-9, atol=1e-11)


def test_a_state_that_never_changes_is_told_with_all_digits():
    """After n looks the log odds are a plain sum, far below what a probability can hold."""
    mdp, model = MDP([[[1.0, 0.0]], [[0.0, 1.0]]], [0.5, 0.5]), ObservationModel([[0.9, 0.1], [0.2, 0.8]])
    seen = [0] * 3000 + [1] * 2100
    beliefs = filter_states(mdp, model, seen, [0] * (len(seen) - 1))
    odds = np.cumsum([np.log(0.9 / 0.2) if shown == 0 else np.log(0.1 / 0.8) for shown in seen])
    near = np.flatnonzero(np.abs(odds) < 600)
    assert near[-1] > 5000
    np.testing.assert_allclose(beliefs[near, 1].numpy(), 1 / (1 + np.exp(odds[near])), rtol=1e-9)


DOOR = MDP([[[0.5, 0.5], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]], 0, available=[[True, True], [True, False]])
SHOWN = ObservationModel([[1.0, 0.0], [0.5, 0.5]])


@pytest.mark.parametrize(
    ("seen", "taken", "pattern"),
    [
        ([[0, 0], [0, 1]], [[0], [1]], r"run 1: observation 1 at time index 1 has probability 0 after action 1"),
        ([[0, 1, 0], [0, 0, 0]], [[0, 1], [0, 0]], r"run 0: action 1 at time index 1 is not available in state 1"),
        ([[0, 0], [0, 7]], [[0], [0]], r"run 1: observations\[1\]: observation 7 does not exist"),
        ([[0, 0], [0, 0, 0]], [[0], [0, 0]], r"have 1 to 2 actions; give runs of one length.*None"),
        ([[0, 0], [0, 0]], [0, 0], r"2 runs, so actions must hold as many"),
        ([[0, 0], [0, 0]], [[0]], r"2 runs, so actions must hold as many.*1 entries"),
        ([[0, 0], [0]], [[0], [0]], r"run 1: a run of 1 actions has 2 observations, and 1 are given"),
    ],
)
def test_a_bad_run_of_a_batch_is_named(seen, taken, pattern):
    with pytest.raises(ValueError, match=pattern):
        filter_states(DOOR, SHOWN, seen, taken)
