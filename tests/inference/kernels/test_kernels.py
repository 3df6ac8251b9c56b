"""Every kernel of the soft recursions against plain loops: values, q-values, policies, evidence, occupancies."""

import functools

import numpy as np
import pytest
import torch
from campaigns import over_seeds
from dense_reference import random_case, solve
from kernel_checks import RECURSIONS, TOLERANCE, all_values, check, error, kernels_for

import cai
from cai.inference.kernels import soft_backward as soft_pass
from cai.inference.kernels.choose import KERNELS, choose_kernel, outcome_sums
from cai.inference.kernels.soft_backward import SoftPass
from cai.inference.tabular.forward_messages import _exact_step, forward_messages
from cai.models import MDP, TrajectoryModel


@over_seeds(range(500), quick=100, blocks=8)
def test_all_kernels_on_random_problems(seeds):
    for seed in seeds:
        case = random_case(seed)
        for kind in RECURSIONS:
            answer = solve(case, kind)
            kernels = kernels_for(case, kind)
            for kernel in kernels:
                soft, values = all_values(case, kind, kernel)
                assert error(values, answer.values) < TOLERANCE, (seed, kind, kernel)
                if kernel != "collapsed":
                    first = soft.q_values(values[1], 0)
                    assert error(first, answer.q_values[0]) < TOLERANCE, (seed, kind, kernel)
            check(case, kind, kernels[seed % len(kernels)], answer)


@pytest.mark.parametrize("kind", RECURSIONS)
@pytest.mark.parametrize("block", [1, 5, 16])
@over_seeds(range(1000, 1012), quick=4)
def test_small_blocks_change_nothing(kind, block, monkeypatch, seeds):
    monkeypatch.setattr(soft_pass, "BLOCK", block)
    for seed in seeds:
        case = random_case(seed, horizon=3)
        answer = solve(case, kind)
        for kernel in kernels_for(case, kind):
            assert error(all_values(case, kind, kernel)[1], answer.values) < TOLERANCE
            check(case, kind, kernel, answer)


@pytest.mark.parametrize("kind", RECURSIONS)
@pytest.mark.parametrize("piece", [2**24, 1])
@over_seeds(range(1100, 1115), quick=5)
def test_states_that_are_done_again_agree(kind, piece, monkeypatch, seeds):
    """With a bound that no sum reaches every state takes the path of those that underflow, one or all at a time."""
    original = SoftPass.__init__

    def forced(self, *arguments, **keywords):
        original(self, *arguments, **keywords)
        self.smallest = 1e6

    monkeypatch.setattr(SoftPass, "__init__", forced)
    monkeypatch.setattr(soft_pass, "PIECE", piece)
    for seed in seeds:
        case = random_case(seed, horizon=3)
        answer = solve(case, kind)
        for kernel in kernels_for(case, kind):
            assert error(all_values(case, kind, kernel)[1], answer.values) < TOLERANCE
            check(case, kind, kernel, answer)


@over_seeds(range(1300, 1340), quick=10)
def test_forward_messages_times_backward_ones_are_the_marginals(seeds):
    for seed in seeds:
        case = random_case(seed, horizon=4)
        answer = solve(case, "exact")
        if answer.marginals is None:
            continue
        for kernel in kernels_for(case, "exact"):
            ahead = forward_messages(case.model, kernel).numpy()
            both = np.exp(ahead + answer.values - answer.start)
            assert np.abs(both - answer.marginals).max() < TOLERANCE


@pytest.mark.parametrize("size", [1.0, 300.0, 1e4])
@over_seeds(range(1340, 1360), quick=7)
def test_forward_messages_are_those_of_one_shift_for_each_state(size, seeds):
    """Also where messages differ by more than a float can hold, and where nothing can be reached."""
    for seed in seeds:
        model = random_case(seed, horizon=6).model
        model = model.replace(reward=model.reward * size)
        found = forward_messages(model)
        rows = [model.mdp.initial.log()]
        for t in range(model.steps):
            rows.append(_exact_step(model, rows[-1], t))
        expected = torch.stack(rows)
        assert torch.equal(torch.isinf(found), torch.isinf(expected))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("kernel", ["dense", "csr", "successors"])
@over_seeds(range(1400, 1420), quick=7)
def test_a_transpose_is_the_transpose(kernel, seeds):
    """<y, P x> = <P' y, x>, blocks of any size make up the whole, and actions can be summed over first."""
    generator = torch.Generator().manual_seed(1)
    for seed in seeds:
        mdp = random_case(seed, listed=kernel != "dense" and seed % 2 == 0).model.mdp
        num_states, rows = mdp.num_states, mdp.num_states * mdp.num_actions
        dense, sums = mdp.dense().reshape(rows, num_states), outcome_sums(mdp, kernel)
        for tail in ((), (3,)):
            x = torch.rand(num_states, *tail, dtype=torch.float64, generator=generator)
            y = torch.rand(rows, *tail, dtype=torch.float64, generator=generator)
            cut = num_states // 2
            parts = [
                sums.gather(x, start, stop, x.new_empty((stop - start) * mdp.num_actions, *tail))
                for start, stop in ((0, cut), (cut, num_states))
                if stop > start
            ]
            torch.testing.assert_close(torch.cat(parts), dense @ x, rtol=1e-14, atol=1e-14)
            torch.testing.assert_close(sums.scatter(y), dense.t() @ y, rtol=1e-14, atol=1e-14)
        weights = torch.rand(num_states, mdp.num_actions, dtype=torch.float64, generator=generator)
        x = torch.rand(num_states, dtype=torch.float64, generator=generator)
        collapsed = sums.over_actions(weights).gather(x, 0, num_states, torch.empty_like(x))
        expected = torch.einsum("sa,sax,x->s", weights, mdp.dense(), x)
        torch.testing.assert_close(collapsed, expected, rtol=1e-14, atol=1e-14)


def test_the_rule_that_chooses():
    full = MDP(np.full((4, 1, 4), 0.25), np.eye(4)[0])
    sparse = MDP(np.eye(9)[:, None, :], np.eye(9)[0])  # one entry in nine
    lists = MDP.from_successors(np.zeros((4, 1, 1), dtype=int), np.ones((4, 1, 1)), np.eye(4)[0])
    products = "csr" if torch.backends.mkl.is_available() else None
    assert choose_kernel(full) == "dense"
    assert choose_kernel(sparse) == (products or "dense")
    assert choose_kernel(lists) == (products or "successors")
    assert [choose_kernel(full, name) for name in ("dense", "csr", "successors")] == ["dense", "csr", "successors"]


def test_what_is_refused_says_what_to_do():
    lists = MDP.from_successors(np.zeros((2, 1, 1), dtype=int), np.ones((2, 1, 1)), [1.0, 0.0])
    model = TrajectoryModel(lists, np.zeros((2, 1)), 3)
    for backend in ("exact", "variational", "optimistic"):
        with pytest.raises(ValueError, match=r"kernel 'dense' needs a process given as \[S, A, S\].*use 'csr', or"):
            cai.infer(model, backend, kernel="dense")
        with pytest.raises(ValueError, match="kernel is 'gpu'; expected one of auto, dense"):
            cai.infer(model, backend, kernel="gpu")
        with pytest.raises(ValueError, match="keep is 'nothing'; expected one of values, evidence"):
            cai.infer(model, backend, keep="nothing")
    with pytest.raises(ValueError, match="kernel is 'gpu'"):
        choose_kernel(lists, "gpu")
    assert set(KERNELS) >= {"auto", "dense", "csr", "successors", "collapsed"}


@functools.cache
def _timed_model():
    case = random_case(7, in_time=True, reward="sa", horizon=4, forbidden=False)
    return case.model


@pytest.mark.parametrize("keep", ["values", "evidence"])
def test_collapsed_where_it_does_not_fit_is_refused(keep):
    """In one voice, whatever is kept and whether gradients are recorded."""
    mdp = MDP.from_successors(np.zeros((2, 1, 1), dtype=int), np.ones((2, 1, 1)), [1.0, 0.0])
    message = "kernel 'collapsed' sums over actions once and for all: it needs the exact backup.*use kernel='auto'"
    rewards = torch.zeros(2, 1, dtype=torch.float64)
    for table in (rewards, rewards.clone().requires_grad_()):
        with pytest.raises(ValueError, match=message):
            cai.infer(TrajectoryModel(mdp, table, 3), "variational", keep=keep, kernel="collapsed")
    with pytest.raises(ValueError, match=message):
        cai.infer(_timed_model(), "exact", keep=keep, kernel="collapsed")
