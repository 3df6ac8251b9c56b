"""What a posterior keeps: every attribute is there under every `keep`, the same to rounding, and no table stays."""

import gc
import math

import numpy as np
import pytest
import torch
from dense_reference import case_of, random_case, solve

import cai
from cai.inference import SumProduct
from cai.inference.kernels import values as adjoint
from cai.inference.tabular.backward import KEEP
from cai.models import MDP, TableReward, TrajectoryModel

BACKENDS = ("exact", "optimistic", "variational")
TABLES = ("values", "q_values", "action_probs", "action_prior", "initial", "state_marginals", "absorbed")
NUMBERS = ("log_evidence", "elbo", "believed_return", "luck", "policy_divergence", "policy_entropy")


def assert_same(found, expected, name, tolerance=1e-12):
    """Equal to rounding, relative to the size of the numbers (at least 1)."""
    if expected is None:
        assert found is None, name
        return
    found, expected = found.detach(), expected.detach()
    finite = torch.isfinite(expected)
    assert found.shape == expected.shape, name
    assert torch.equal(found[~finite], expected[~finite]), name
    scale = max(1.0, float(expected[finite].abs().max()) if bool(finite.any()) else 1.0)
    torch.testing.assert_close(found[finite], expected[finite], rtol=0, atol=tolerance * scale, msg=lambda m: name + m)


def good_cases(first, number, **keywords):
    """Cases whose optimality is possible under the true dynamics too."""
    seeds = range(first, first + 10 * number)
    cases = (random_case(seed, horizon=(1, 3, 12)[seed % 3], **keywords) for seed in seeds)
    good = (case for case in cases if math.isfinite(solve(case, "fixed").start))
    return [case for case, _ in zip(good, range(number), strict=False)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("keep", KEEP)
def test_every_attribute_is_there_and_the_same(backend, keep):
    for case in good_cases(3000, 8):
        everything, posterior = cai.infer(case.model, backend), cai.infer(case.model, backend, keep=keep)
        for name in TABLES + NUMBERS:
            assert_same(getattr(posterior, name), getattr(everything, name), name)
            assert_same(getattr(posterior, name), getattr(everything, name), name)  # a second look
        assert posterior.steps == case.horizon
        assert_same(posterior.details["start"], everything.details["start"], "start")
        for t in (0, case.horizon - 1):
            assert_same(posterior.dynamics(t), everything.dynamics(t), "dynamics")
            assert_same(posterior.luck_map(t), everything.luck_map(t), "luck_map")
        assert_same(posterior.luck_by_state(), everything.luck_by_state(), "luck_by_state")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("keep", KEEP)
def test_what_is_done_with_an_answer_works(backend, keep):
    for case in good_cases(3100, 3, reward="sas", in_time=False):
        everything, posterior = cai.infer(case.model, backend), cai.infer(case.model, backend, keep=keep)
        for one, other in zip(posterior.sample(20, seed=3), everything.sample(20, seed=3), strict=True):
            assert torch.equal(one, other)
        states, actions = posterior.sample(5, seed=4)
        assert_same(posterior.log_prob(states, actions), everything.log_prob(states, actions), "log_prob")
        one, other = posterior.to_xarray(), everything.to_xarray()
        assert one.attrs.keys() == other.attrs.keys()
        assert set(one) == set(other)
        np.testing.assert_allclose(one["q_values"].values, other["q_values"].values, rtol=1e-12, atol=1e-11)
        assert repr(posterior) == repr(everything)
        for kind in ("stochastic", "greedy"):
            policy, expected = (cai.extract_policy(answer, kind) for answer in (posterior, everything))
            outcome, known = (cai.evaluate(found, case.model, num_rollouts=10) for found in (policy, expected))
            assert math.isclose(outcome.expected_return, known.expected_return, rel_tol=1e-11, abs_tol=1e-11)
        renamed = posterior.replace(backend="other")
        assert renamed.backend == "other"
        assert_same(renamed.q_values, everything.q_values, "q_values")


def test_a_comparison_takes_the_option():
    case = good_cases(3200, 1)[0]
    asked = ["exact", "exact:keep=evidence", "variational:keep=evidence,kernel=torch"]
    rows = cai.compare(case.model, asked, num_rollouts=10).rows
    assert rows[1].backend == "exact(keep=evidence)"
    for row in rows[1:2]:
        for name in ("log_evidence", "elbo", "believed_return", "real_return", "luck", "policy_entropy"):
            one, other = getattr(row, name), getattr(rows[0], name)
            assert math.isclose(one, other, rel_tol=1e-11, abs_tol=1e-11), name
    assert rows[2].status.ok


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("keep", KEEP)
def test_gradients_flow_from_every_number(backend, keep):
    """Of what is worked out later too: promised where gradients are recorded, it records them where it is looked at."""
    table = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(3, 2).requires_grad_()
    rng = np.random.default_rng(1)
    mdp = MDP(rng.dirichlet(np.ones(3), size=(3, 2)), rng.dirichlet(np.ones(3)))
    model = TrajectoryModel(mdp, table, 5, temperature=0.6, discount=0.9)
    everything, posterior = cai.infer(model, backend), cai.infer(model, backend, keep=keep)
    for name in (*NUMBERS, "values", "q_values", "action_probs", "state_marginals"):
        if getattr(everything, name) is None or not getattr(everything, name).requires_grad:
            assert getattr(posterior, name) is None or not getattr(posterior, name).requires_grad
            continue
        found = []
        for answer in (posterior, everything):
            with torch.no_grad():
                part = getattr(answer, name)
            weights = torch.linspace(0.5, 2, part.numel(), dtype=torch.float64).reshape(part.shape)
            found += torch.autograd.grad((part * weights).sum(), table, retain_graph=True)
        assert_same(found[0], found[1], name, 1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
def test_hopeless_answers_hold_their_rows(backend):
    rewards = np.array([[-np.inf, -np.inf], [0.0, 1.0]])
    model = TrajectoryModel(MDP([[[1.0, 0], [0, 1]], [[0, 1.0], [1, 0]]], [1.0, 0]), rewards, 3)
    everything = cai.infer(model, backend, throw=False)
    for keep in KEEP:
        posterior = cai.infer(model, backend, keep=keep, throw=False)
        assert posterior.status is everything.status
        assert not posterior.status.ok
        for name in TABLES:
            assert_same(getattr(posterior, name), getattr(everything, name), name)


# ---- what stays in memory -------------------------------------------------------------------------------------------

STATES, ACTIONS, STEPS = 60, 3, 50


def large_model(temperature, rewards=None):
    rng = np.random.default_rng(2)
    following = rng.integers(STATES, size=(STATES, ACTIONS, 2))
    chances = rng.dirichlet(np.ones(2), size=(STATES, ACTIONS))
    mdp = MDP.from_successors(following, chances, np.ones(STATES) / STATES)
    table = rng.normal(size=(STATES, ACTIONS)) if rewards is None else rewards
    return TrajectoryModel(mdp, TableReward(table), STEPS, temperature)


def storages():
    """Bytes of each storage that some tensor of the process holds; without those from before `gc.freeze`."""
    gc.collect()
    tensors = [item for item in gc.get_objects() if type(item) is torch.Tensor and item.layout is torch.strided]
    return {storage.data_ptr(): storage.nbytes() for storage in (tensor.untyped_storage() for tensor in tensors)}


def kept(model, backend, keep):
    """Numbers that an answer holds, in units of T S: as it comes, and after its tables have been looked at."""
    looked = ("values", "q_values", "action_probs", "state_marginals", "believed_return", "policy_entropy", "luck")
    cai.infer(model, backend).believed_return.item()  # what the process keeps for all answers
    known = storages()
    gc.freeze()
    posterior = cai.infer(model, backend, keep=keep)
    assert posterior.status.ok
    rows = []
    for names in ((), looked):
        for name in names:
            getattr(posterior, name)
        grown = sum(size for place, size in storages().items() if place not in known)
        rows.append(grown / (8 * STEPS * STATES))
    return rows


@pytest.mark.parametrize(("backend", "temperature"), [("exact", 1.0), ("exact", 0.5), ("variational", 0.5)])
def test_only_what_was_asked_for_is_held(backend, temperature):
    """T S and a few rows of S numbers; with keep="values" what is looked at is held too, with "evidence" nothing."""
    model = large_model(temperature)
    looked = {"values": 2 * ACTIONS + 2, "evidence": 0}
    for keep, size in {"values": 1, "evidence": 0}.items():
        at_first, later = kept(model, backend, keep)
        few = 6 / STEPS  # rows of S numbers, and scalars
        assert size <= at_first < size + few, keep
        assert looked[keep] - 1 <= later < looked[keep] + few, keep


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("small", [False, True])
def test_evidence_with_gradients_holds_square_roots(backend, small, monkeypatch):
    """2 sqrt(T) rows of values, of all steps where they are few numbers.

    What autograd saves is found by a hook, since it belongs to no tensor of Python.
    """
    monkeypatch.setattr(adjoint, "SMALL", 8 * (STEPS + 1) * STATES - (not small))
    model = large_model(1.0, torch.zeros(STATES, ACTIONS, dtype=torch.float64, requires_grad=True))
    sizes = {}

    def pack(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        elbo = cai.infer(model, backend, keep="evidence").elbo
    rows = max(sizes.values()) / STATES
    assert rows == STEPS + 1 if small else math.isqrt(STEPS) <= rows <= 2 * math.sqrt(STEPS)
    elbo.backward()


def test_keep_says_nothing_of_infinite_horizons():
    case = case_of(MDP([[[0.5, 0.5]], [[0.0, 1.0]]], [1.0, 0.0], terminal=[1]), np.array([[-1.0], [0.0]]), 2)
    model = case.model.replace(horizon=math.inf)
    for keep in KEEP:
        posterior = cai.infer(model, "exact", keep=keep)
        for name in TABLES + NUMBERS:
            assert_same(getattr(posterior, name), getattr(cai.infer(model, "exact"), name), name)


def test_wrong_words_are_refused():
    for wrong in ("value", "", None, 3):
        with pytest.raises(ValueError, match="expected one of values, evidence"):
            SumProduct(keep=wrong)
    for gone in ("all", "policy"):
        with pytest.raises(ValueError, match=f"keep='{gone}' is gone: leave it out, or say keep='values'"):
            SumProduct(keep=gone)
    with pytest.raises(ValueError, match="keep is 'nothing'"):
        cai.compare(random_case(1).model, ["exact:keep=nothing"])
