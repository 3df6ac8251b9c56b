"""Every kernel of the soft recursions against plain loops: values, q-values, policies, evidence, occupancies."""

import numpy as np
import pytest
import torch
from campaigns import over_seeds
from dense_reference import random_case, solve
from kernel_checks import KERNELS, RECURSIONS, TOLERANCE, all_values, check, error

import cai
from cai.inference.kernels import plain, tables
from cai.inference.kernels.choose import choose_kernel
from cai.inference.kernels.native import library as native
from cai.inference.kernels.plain import SoftPass
from cai.inference.kernels.tables import process_table
from cai.inference.tabular.forward_messages import _exact_step, forward_messages
from cai.models import MDP, TrajectoryModel


@over_seeds(range(500), quick=100, blocks=8)
def test_all_kernels_on_random_problems(seeds):
    for seed in seeds:
        case = random_case(seed)
        for kind in RECURSIONS:
            answer = solve(case, kind)
            for kernel in KERNELS:
                soft, values = all_values(case, kind, kernel)
                assert error(values, answer.values) < TOLERANCE, (seed, kind, kernel)
                assert error(soft.q_values(values), answer.q_values) < TOLERANCE, (seed, kind, kernel)
                assert error(soft.backup(values[1], 0), answer.q_values[0]) < TOLERANCE, (seed, kind, kernel)
            check(case, kind, KERNELS[seed % len(KERNELS)], answer)


@pytest.mark.parametrize("kind", RECURSIONS)
@pytest.mark.parametrize("block", [1, 5, 16])
@over_seeds(range(1000, 1012), quick=4)
def test_small_chunks_change_nothing(kind, block, monkeypatch, seeds):
    monkeypatch.setattr(plain, "CHUNK", block)
    for seed in seeds:
        case = random_case(seed, horizon=3)
        answer = solve(case, kind)
        for kernel in KERNELS:
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
    monkeypatch.setattr(plain, "CHUNK", piece)
    for seed in seeds:
        case = random_case(seed, horizon=3)
        answer = solve(case, kind)
        for kernel in KERNELS:
            assert error(all_values(case, kind, kernel)[1], answer.values) < TOLERANCE
            check(case, kind, kernel, answer)


@over_seeds(range(1300, 1340), quick=10)
def test_forward_messages_times_backward_ones_are_the_marginals(seeds):
    for seed in seeds:
        case = random_case(seed, horizon=4)
        answer = solve(case, "exact")
        if answer.marginals is None:
            continue
        both = np.exp(forward_messages(case.model).numpy() + answer.values - answer.start)
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


@pytest.mark.parametrize("products", [True, False])
@over_seeds(range(1400, 1420), quick=7)
def test_a_transpose_is_the_transpose(products, monkeypatch, seeds):
    """<y, P x> = <P' y, x>, and actions can be summed over first; with torch's sparse products and without."""
    if not products:
        monkeypatch.setattr(tables, "has_sparse_products", lambda device: False)
    generator = torch.Generator().manual_seed(1)
    for seed in seeds:
        mdp = random_case(seed).model.mdp
        num_states, rows = mdp.num_states, mdp.num_states * mdp.num_actions
        dense, table = mdp.dense().reshape(rows, num_states), process_table(mdp)
        assert process_table(mdp) is table
        x = torch.rand(num_states, 3, dtype=torch.float64, generator=generator)
        y = torch.rand(rows, 3, dtype=torch.float64, generator=generator)
        torch.testing.assert_close(table.product(x), dense @ x, rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(table.scatter(y), dense.t() @ y, rtol=1e-14, atol=1e-14)
        weights = torch.rand(num_states, mdp.num_actions, dtype=torch.float64, generator=generator)
        expected = torch.einsum("sa,sat,tb->sb", weights, mdp.dense(), x)
        torch.testing.assert_close(table.merge(weights).product(x), expected, rtol=1e-14, atol=1e-14)
        assert table.merge(weights).pattern is table.merge(2 * weights).pattern, "found once"


def test_the_rules_that_choose():
    full = MDP(np.full((4, 1, 4), 0.25), np.eye(4)[0])
    sparse = MDP(np.eye(9)[:, None, :], np.eye(9)[0])  # one entry in nine
    lists = MDP.from_successors(np.zeros((4, 1, 1), dtype=int), np.ones((4, 1, 1)), np.eye(4)[0])
    assert process_table(full).pattern is None
    assert process_table(sparse).pattern is not None
    assert process_table(lists).pattern is not None
    assert choose_kernel(full) == ("native" if native.available() else "torch")
    assert choose_kernel(full, "torch") == "torch"
    assert cai.infer(TrajectoryModel(full, np.zeros((4, 1)), 3), "exact").details["kernel"] == choose_kernel(full)
    found = cai.infer(TrajectoryModel(full, np.zeros((4, 1)), 3), "exact", kernel="torch")
    assert found.details["kernel"] == "torch"


def test_what_is_refused_says_what_to_do():
    lists = MDP.from_successors(np.zeros((2, 1, 1), dtype=int), np.ones((2, 1, 1)), [1.0, 0.0])
    model = TrajectoryModel(lists, np.zeros((2, 1)), 3)
    for backend in ("exact", "variational", "optimistic"):
        for gone in ("dense", "csr", "successors", "collapsed", "compiled"):
            with pytest.raises(ValueError, match=f"kernel='{gone}' is gone: .*; leave it out, or say kernel='torch'"):
                cai.infer(model, backend, kernel=gone)
        with pytest.raises(ValueError, match="kernel is 'gpu'; expected one of auto, native, torch"):
            cai.infer(model, backend, kernel="gpu")
        with pytest.raises(ValueError, match="keep is 'nothing'; expected one of values, evidence"):
            cai.infer(model, backend, keep="nothing")
    with pytest.raises(ValueError, match="kernel is 'gpu'"):
        choose_kernel(lists, "gpu")
