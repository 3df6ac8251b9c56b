"""Gradients by hand: against finite differences, against the posterior's visits by plain loops, and without any NaN."""

import math

import numpy as np
import pytest
import torch
from campaigns import over_seeds
from dense_reference import DIGITS, case_of, random_case, solve

import cai
from cai.inference.kernels import plain
from cai.inference.kernels.plain import SoftPass
from cai.inference.kernels.values import recorded_values, soft_values
from cai.inference.tabular.recursion import EXACT, FIXED
from cai.models import MDP, CallableReward, OutcomeReward, TableReward, TrajectoryModel

BACKENDS = {"exact": "exact", "variational": "fixed"}
KEEPS = ("values", "evidence")
STATES, ACTIONS, OUTCOMES = 3, 2, 2
SHAPES = {
    "s": (STATES,),
    "sa": (STATES, ACTIONS),
    "sas": (STATES, ACTIONS, STATES),
    "sak": (STATES, ACTIONS, OUTCOMES),
}
# Central differences with steps of 1e-6 are good to about 1e-9 here; gradcheck's own default is 1e-5.
CLOSE = {"eps": 1e-6, "atol": 1e-7, "rtol": 1e-6}


def leaves(shape, listed, horizon=None, seed=0):
    """(rewards, logits of the action prior, of the start, of the outcomes), all of which ask for gradients."""
    generator = torch.Generator().manual_seed(seed)
    rewards = shape if horizon is None else (horizon, *shape)
    sizes = (rewards, (STATES, ACTIONS), (STATES,), (STATES, ACTIONS, OUTCOMES if listed else STATES))
    made = [torch.randn(size, dtype=torch.float64, generator=generator) for size in sizes]
    return tuple(part.requires_grad_() for part in made)


def build(kind, listed, horizon, in_time, discount, rewards, prior, start, outcomes):
    following = torch.tensor([[[0, 1], [2, 2]], [[2, 0], [1, 0]], [[1, 2], [0, 0]]])
    chances, initial = outcomes.softmax(-1), start.softmax(-1)
    mdp = MDP.from_successors(following, chances, initial) if listed else MDP(chances, initial)
    factor = OutcomeReward(rewards) if kind == "sak" and not in_time else None
    if in_time and kind == "sak":
        factor = sum(OutcomeReward(table).at(times=[t]) for t, table in enumerate(rewards))
    elif in_time:
        axes = len(SHAPES[kind])
        factor = CallableReward(lambda s, a, end, t: rewards[(t, s, a, end)[: axes + 1]], axes == 3, True)
    elif factor is None:
        factor = TableReward(rewards)
    return TrajectoryModel(mdp, factor, horizon, 0.7, discount, prior.softmax(-1))


def outputs(backend, keep, *question):
    posterior = cai.infer(build(*question), backend, keep=keep)
    return posterior.elbo, posterior.values


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("kind", "listed", "in_time", "discount", "keep"),
    [
        ("sa", True, False, 0.9, "values"),
        ("sa", True, False, 0.9, "evidence"),
        ("s", False, False, 1.0, "evidence"),
        ("sas", False, False, 0.9, "values"),
        ("sas", True, True, 1.0, "evidence"),
        ("sak", True, False, 1.0, "values"),
        ("sak", True, True, 0.9, "values"),
        ("sa", False, True, 1.0, "evidence"),
    ],
)
def test_gradcheck_with_respect_to_everything(backend, kind, listed, in_time, discount, keep):
    horizon = 3
    inputs = leaves(SHAPES[kind], listed, horizon if in_time else None)

    def function(*parts):
        return outputs(backend, keep, kind, listed, horizon, in_time, discount, *parts)

    # All entries of one case one by one, and for the others one direction at random.
    assert torch.autograd.gradcheck(function, inputs, **CLOSE, fast_mode=(kind, listed) != ("sa", True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("kind", "listed", "in_time", "discount", "keep"),
    [
        ("sa", False, False, 1.0, "values"),
        ("sak", True, False, 0.9, "evidence"),
        ("sas", True, True, 1.0, "values"),
        ("s", True, False, 0.9, "evidence"),
    ],
)
def test_gradients_can_be_differentiated_again(backend, kind, listed, in_time, discount, keep):
    horizon = 2
    inputs = leaves(SHAPES[kind], listed, horizon if in_time else None)

    def function(*parts):
        return outputs(backend, keep, kind, listed, horizon, in_time, discount, *parts)

    assert torch.autograd.gradgradcheck(function, inputs, eps=1e-6, atol=1e-6, rtol=1e-5, fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("horizon", [1, 2, 3, 8, 50])
def test_checkpoints_change_no_gradient(backend, horizon):
    """Values computed again are the same numbers: any difference is of the order in which sums are made."""
    for kind, listed, in_time in (("sa", False, False), ("sak", True, False), ("sa", True, True)):
        inputs = leaves(SHAPES[kind], listed, horizon if in_time else None)
        found = {}
        for keep in KEEPS:
            posterior = cai.infer(build(kind, listed, horizon, in_time, 0.97, *inputs), backend, keep=keep)
            found[keep] = torch.autograd.grad(posterior.elbo, inputs)
        for keep in ("evidence",):
            for one, other in zip(found[keep], found["values"], strict=True):
                torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def probed(case, **changes):
    """(the same model with a reward of 0 [S, A] more, that reward)."""
    more = torch.zeros(case.prior.shape, dtype=torch.float64, requires_grad=True)
    return case.model.replace(reward=case.model.reward + TableReward(more), **changes), more


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("keep", KEEPS)
@over_seeds(range(2000, 2024), quick=8)
def test_gradients_with_respect_to_rewards_are_visits(backend, keep, seeds):
    """d log p(O) / d r(s, a) = E[visits of (s, a)] / alpha, for what the posterior believes; so for the bound."""
    for seed in seeds:
        case = random_case(seed, horizon=(1, 4, 5, 10)[seed % 4])
        answer = solve(case, BACKENDS[backend])
        model, more = probed(case)
        posterior = cai.infer(model, backend, keep=keep, throw=False)
        (gradient,) = torch.autograd.grad(posterior.elbo, more)
        assert torch.isfinite(gradient).all()
        if answer.visits is not None:
            np.testing.assert_allclose(gradient.numpy() * case.temperature, answer.visits, rtol=0, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sign", [-1.0, 1.0, 0.0])
def test_visits_where_rewards_are_ten_thousand(backend, sign):
    """Probabilities are powers of values of 1e5 nats: known to 1e5 times rounding."""
    rng = np.random.default_rng(9)
    for _ in range(3):
        chances = rng.dirichlet(np.ones(4) * 0.5, size=(4, 3))
        mdp = MDP(chances, rng.dirichlet(np.ones(4)))
        table = 10 ** rng.uniform(-1, 4, size=(4, 3)) * (sign or rng.choice([-1.0, 1.0], size=(4, 3)))
        table[rng.random((4, 3)) < 0.15] = -np.inf
        table[:, 0] = np.where(np.isinf(table[:, 0]), -1.0, table[:, 0])
        case = case_of(mdp, table, 5, temperature=0.5)
        answer = solve(case, BACKENDS[backend], DIGITS)
        for keep in KEEPS:
            model, more = probed(case)
            (gradient,) = torch.autograd.grad(cai.infer(model, backend, keep=keep).elbo, more)
            np.testing.assert_allclose(gradient.numpy() * case.temperature, answer.visits, rtol=0, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@over_seeds(range(2100, 2124), quick=8)
def test_no_gradient_holds_nan(backend, seeds):
    """All inputs at once, of values and of the bound, where much is forbidden, unreachable or far below 1e-308."""
    for seed in seeds:
        kind, scale = ("sa", "sak")[seed % 2], (2.0, 1e4)[seed // 2 % 2]
        case = random_case(seed, horizon=4, reward=kind, scale=scale, in_time=False)
        chances = torch.as_tensor(case.probabilities).clone().requires_grad_()
        initial = torch.as_tensor(case.initial).clone().requires_grad_()
        prior = torch.as_tensor(case.prior.copy(), dtype=torch.float64).requires_grad_()
        rewards = torch.as_tensor(case.model.reward.table).clone().requires_grad_()
        mdp = case.model.mdp
        keys = {"available": mdp.available, "terminal": mdp.terminal}
        listed = not mdp.is_dense
        built = (
            MDP.from_successors(mdp.next_states, chances, initial, **keys) if listed else MDP(chances, initial, **keys)
        )
        inputs = [chances, initial, prior, rewards]
        factor = OutcomeReward(rewards) if seed % 2 else TableReward(rewards)
        model = TrajectoryModel(built, factor, 4, case.temperature, case.discount, prior)
        for keep in (KEEPS[seed % 2], "evidence"):
            posterior = cai.infer(model, backend, keep=keep, throw=False)
            for output in (posterior.elbo, posterior.values):
                gradients = torch.autograd.grad(output.sum(), inputs, retain_graph=True, allow_unused=True)
                assert all(torch.isfinite(part).all() for part in gradients if part is not None), (seed, keep)


@pytest.mark.parametrize("kind", ["exact", "fixed"])
@pytest.mark.parametrize("listed", [True, False])
@over_seeds(range(2200, 2216), quick=5)
def test_by_hand_and_recorded_are_one_gradient(kind, listed, seeds):
    """Differentiated once or recorded for more, the gradient of every input is the same, at probability 0 too."""
    for seed in seeds:
        case = random_case(seed, horizon=3, listed=listed, reward=("sa", "sas")[seed % 2], in_time=False)
        mdp, model = case.model.mdp, case.model
        chances = mdp.probabilities.clone().requires_grad_()
        keys = {"available": mdp.available, "terminal": mdp.terminal}
        built = (
            MDP.from_successors(mdp.next_states, chances, mdp.initial, **keys)
            if listed
            else MDP(chances, mdp.initial, **keys)
        )
        model = TrajectoryModel(built, model.reward, 3, case.temperature, case.discount, model.action_prior)
        for all_steps in (True, False):
            parts = [part for part in soft_values(model, kind, all_steps=all_steps) if part is not None]
            total = sum(torch.where(torch.isfinite(part), part, torch.zeros_like(part)).sum() for part in parts)
            (by_hand,) = torch.autograd.grad(total, chances, retain_graph=True)
            (recorded,) = torch.autograd.grad(total, chances, create_graph=True)
            torch.testing.assert_close(by_hand, recorded.detach(), rtol=1e-10, atol=1e-10)


@over_seeds(range(2300, 2330), quick=10)
def test_recorded_values_are_the_values(seeds):
    for seed in seeds:
        case = random_case(seed, horizon=3)
        model = case.model
        rewards = [model.reward_table(t) / model.temperature for t in model.reward_times]
        for kind in ("exact", "fixed"):
            found = recorded_values(model, kind, model.mdp.probabilities, model.log_action_prior, *rewards)
            first, values = soft_values(model, kind)
            torch.testing.assert_close(found, values, rtol=1e-11, atol=1e-11)
            torch.testing.assert_close(found[0], first, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_sums_that_underflow(backend, monkeypatch):
    """A state whose every sum is done again passes on what the others do, whether all go at once or one at a time."""
    original = SoftPass.__init__

    def forced(self, *arguments, **keywords):
        original(self, *arguments, **keywords)
        self.smallest = 1e6

    for piece in (2**24, 1):
        monkeypatch.setattr(plain, "CHUNK", piece)
        for kind, listed in (("sa", True), ("sas", False), ("sak", True)):
            inputs = leaves(SHAPES[kind], listed)
            question = (kind, listed, 4, False, 0.9, *inputs)
            with monkeypatch.context() as patch:
                patch.setattr(SoftPass, "__init__", forced)
                found = torch.autograd.grad(cai.infer(build(*question), backend, keep="values").elbo, inputs)
            expected = torch.autograd.grad(cai.infer(build(*question), backend, keep="values").elbo, inputs)
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("dtype", "chance"), [(torch.float64, 1e-285), (torch.float32, 1e-30)])
@pytest.mark.parametrize("scale", [1.0, 1e9, 1e30])
def test_large_gradients_do_not_overflow(dtype, chance, scale):
    """Where hope has a tiny probability the sums of a state are tiny too, and a loss may be scaled all the same."""
    mdp = MDP([[[0.0, 1.0, 0.0], [0.0, 1 - chance, chance]], [[0, 1.0, 0]] * 2, [[0, 0, 1.0]] * 2], [1.0, 0, 0])
    rewards = torch.tensor([0.0, -3000.0, 0.0], dtype=torch.float64, requires_grad=True)
    model = TrajectoryModel(mdp, rewards, 3).to(dtype=dtype)
    (gradient,) = torch.autograd.grad(scale * cai.infer(model, "exact").log_evidence, rewards)
    # One step at the start and two at its end, by the only way that is not infeasible beside it.
    torch.testing.assert_close(gradient / scale, torch.tensor([1.0, 0.0, 2.0]).double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("keep", KEEPS)
def test_gradients_in_float32(keep):
    """They reach the float64 tensors that the model was made of, to the rounding of float32."""
    inputs = leaves(SHAPES["sa"], True)
    for backend in BACKENDS:
        model = build("sa", True, 4, False, 0.9, *inputs)
        expected = torch.autograd.grad(cai.infer(model, backend, keep=keep).elbo, inputs, retain_graph=True)
        found = torch.autograd.grad(cai.infer(model.to(dtype=torch.float32), backend, keep=keep).elbo, inputs)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_values_ask_for_no_gradient_where_nothing_does():
    case = random_case(2400)
    for recursion in (EXACT, FIXED):
        assert not any(part.requires_grad for part in soft_values(case.model, recursion.kind))
    inputs = leaves(SHAPES["sa"], True)
    with torch.no_grad():
        assert not cai.infer(build("sa", True, 4, False, 0.9, *inputs), "exact").elbo.requires_grad
    assert math.isfinite(float(cai.infer(build("sa", True, 4, False, 0.9, *inputs), "exact").elbo.detach()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("keep", KEEPS)
def test_gradients_with_respect_to_the_temperature(backend, keep):
    """Of the bound and of values in reward units, which have the temperature as a factor too."""
    rewards, *_ = leaves(SHAPES["sa"], True)
    generator = np.random.default_rng(2)
    mdp = MDP(generator.dirichlet(np.ones(STATES), size=(STATES, ACTIONS)), np.ones(STATES) / STATES)
    alpha = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def function(rewards, alpha):
        posterior = cai.infer(TrajectoryModel(mdp, rewards, 3, temperature=alpha, discount=0.9), backend, keep=keep)
        return posterior.elbo, posterior.values, posterior.believed_return

    assert torch.autograd.gradcheck(function, (rewards, alpha), **CLOSE)
