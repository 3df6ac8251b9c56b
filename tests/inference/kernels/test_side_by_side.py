"""Problems that the native loops answer side by side, against one recursion in numpy for each."""

import numpy as np
import pytest
import torch
from native_kernel import needs_native

import cai
from cai.models import MDP, TrajectoryModel

pytestmark = needs_native


def log_sum(terms, axis):
    largest = terms.max(axis, keepdims=True)
    largest = np.where(np.isfinite(largest), largest, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(terms - largest).sum(axis)) + largest.squeeze(axis)


def oracle(kind, table, reward, horizon, discount, terminal):
    """Values [T, S] by the definition, table [S, A, S]."""
    actions, following, rows = table.shape[1], np.zeros(len(table)), []
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(table)
        for _ in range(horizon):
            if kind == "exact":
                ahead = np.logaddexp(np.log(discount) + following, np.log1p(-discount)) if discount < 1 else following
                arrived = log_sum(logs + ahead, -1)
            else:
                arrived = discount * np.where(table > 0, table * following, 0.0).sum(-1)
            following = log_sum(reward - np.log(actions) + arrived, -1)
            following[terminal] = 0.0
            rows.append(following)
    return np.stack(rows[::-1])


def tables(generator, states, actions, outcomes):
    """(next states [S, A, K], all different in a row, probabilities, the same as [S, A, S])."""
    shape = (states, actions, outcomes)
    following = generator.random((states, actions, states)).argsort(-1)[..., :outcomes]
    chances = generator.random(shape) + 0.1
    chances /= chances.sum(-1, keepdims=True)
    table = np.zeros((states, actions, states))
    np.put_along_axis(table, following, chances, -1)
    return following, chances, table


BACKENDS = {"exact": "exact", "fixed": "variational"}


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("members", [2, 5, 8, 13, 16, 29])
@pytest.mark.parametrize("outcomes", [1, 2, 3, 4, 5, 7, 50])  # 50 of 70 make a dense table, with zeros
def test_rows_of_any_length_and_batches_of_any_size(kind, members, outcomes):
    generator = np.random.default_rng(100 * members + outcomes)
    states, actions, horizon = 70, 3, 6
    following, chances, table = tables(generator, states, actions, outcomes)
    terminal = np.arange(states) >= states - (3 if members % 2 else 0)  # which makes rows of different lengths
    for state in terminal.nonzero()[0]:
        following[state], chances[state] = state, 1 / outcomes
        table[state], table[state, :, state] = 0.0, 1.0
    discount = 1.0 if members % 2 else 0.75
    rewards = -3 * generator.random((members, states, actions))
    rewards[:, :4, 1] = -np.inf
    rewards[0, 10:14] = -np.inf  # of one member alone, some steps before its neighbours
    rewards[:, terminal] = 0.0
    start, ends = np.full(states, 1 / states), terminal.nonzero()[0].tolist()
    if outcomes == 50:
        mdp = MDP(table, start, terminal=ends)
    else:
        mdp = MDP.from_successors(following, chances, start, terminal=ends)
    model = TrajectoryModel(mdp, torch.zeros(states, actions), horizon, discount=discount)
    options = {"throw": False, "kernel": "native"}
    answers = cai.infer(model.batch(reward=torch.from_numpy(rewards)), BACKENDS[kind], **options)
    for member in range(members):
        wanted = oracle(kind, table, rewards[member], horizon, discount, terminal)
        found = answers.values[member].numpy()
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize(("members", "dtype", "threads"), [(17, torch.float64, 1), (26, torch.float32, 3)])
def test_results_that_are_written_past_the_caches(kind, members, dtype, threads, monkeypatch):
    """More than 16 MB of values, of which every row begins at another place of a line."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)), raising=False)
    generator, digits = np.random.default_rng(7), 1e-12 if dtype == torch.float64 else 1e-5
    states, actions, horizon = 1501, 2, 120
    following = generator.integers(0, states, (states, actions, 2))
    chances = generator.dirichlet([1.0, 1.0], (states, actions))
    mdp = MDP.from_successors(following, chances, np.full(states, 1 / states))
    rewards = -generator.random((members, states, actions))
    model = TrajectoryModel(mdp, torch.zeros(states, actions), horizon).to(dtype=dtype)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        batch = model.batch(reward=torch.from_numpy(rewards).to(dtype))
        answers = cai.infer(batch, BACKENDS[kind], kernel="native")
    finally:
        torch.set_num_threads(before)
    assert answers.values.dtype == dtype
    assert answers.values.numel() * answers.values.itemsize > 2**24
    for member in (0, 16):
        wanted = np.zeros(states)
        for t in reversed(range(horizon)):
            if kind == "exact":
                arrived = np.log((chances * np.exp(wanted - wanted.max())[following]).sum(-1)) + wanted.max()
            else:
                arrived = (chances * wanted[following]).sum(-1)
            wanted = log_sum(rewards[member] - np.log(actions) + arrived, -1)
            np.testing.assert_allclose(answers.values[member, t].numpy(), wanted, rtol=digits)
