"""The native kernel against the others: gradients, long horizons, batches, float32, threads, and what it refuses."""

import random

import numpy as np
import pytest
import torch
from campaigns import over_seeds
from dense_reference import random_case
from elsewhere import elsewhere
from native_kernel import needs_native

import cai
from cai.inference.kernels.plain import SoftPass
from cai.inference.kernels.values import soft_values
from cai.models import MDP, TrajectoryModel

KINDS = ("exact", "fixed")
pytestmark = needs_native


def listed_model(seed, num_states, num_actions, num_outcomes, horizon, *, discount=1.0, walls=True, **options):
    """Lists of outcomes with zeros among their probabilities, a terminal state, and rewards of -inf."""
    draw = np.random.default_rng(seed)
    shape = (num_states, num_actions, num_outcomes)
    chances = draw.random(shape) * (draw.random(shape) < 0.7)
    chances[..., 0] += 0.1
    reward = draw.normal(size=shape[:2]) * 3
    if walls:
        reward[draw.random(shape[:2]) < 0.2] = -np.inf
    reward[-1] = 0.0
    next_states = draw.integers(0, num_states, shape)
    next_states[-1] = num_states - 1
    mdp = MDP.from_successors(
        next_states,
        chances / chances.sum(-1, keepdims=True),
        np.full(num_states, 1 / num_states),
        terminal=[num_states - 1],
    )
    return TrajectoryModel(mdp, torch.from_numpy(reward), horizon, discount=discount, **options)


def gradients(model, kind, kernel, inputs, all_steps):
    parts = [part for part in soft_values(model, kind, kernel=kernel, all_steps=all_steps) if part is not None]
    weights = [torch.linspace(0.5, 1.5, part.numel(), dtype=part.dtype).view(part.shape) for part in parts]
    finite = [torch.where(torch.isfinite(part), part, torch.zeros_like(part)) for part in parts]
    total = sum((part * by).sum() for part, by in zip(finite, weights, strict=True))
    return torch.autograd.grad(total, inputs, allow_unused=True, retain_graph=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("horizon", [1, 5, 16, 33, 70])
def test_gradients_are_those_of_plain_torch(kind, horizon):
    """From 32 steps on actions are summed over first, and rates are added up for 16 steps at a time."""
    for seed, discount in ((0, 1.0), (1, 0.9), (2, 1.0)):
        model = listed_model(seed, 12, 3, 3, horizon, discount=discount)
        reward = model.reward_table(0)[..., 0].clone().requires_grad_()
        prior = torch.rand(12, 3, dtype=torch.float64).requires_grad_() if seed == 2 else None
        temperature = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
        asked = [reward, temperature] if prior is None else [reward, temperature, prior]
        normal = None if prior is None else prior / prior.sum(-1, keepdim=True)
        for all_steps in (True, False):
            changed = model.replace(reward=reward, temperature=temperature, action_prior=normal)
            found = gradients(changed, kind, "native", asked, all_steps)
            changed = model.replace(reward=reward, temperature=temperature, action_prior=normal)
            expected = gradients(changed, kind, "torch", asked, all_steps)
            for one, other in zip(found, expected, strict=True):
                # Sums of up to 70 * 12 gradients of size 1 to 100, rounded in another order.
                torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@over_seeds(range(3000, 3030), quick=10)
def test_gradients_by_probability_of_outcomes_and_in_time(kind, seeds):
    for seed in seeds:
        case = random_case(seed, horizon=4)
        mdp = case.model.mdp
        chances = mdp.probabilities.clone().requires_grad_()
        keys = {"terminal": mdp.terminal, "available": mdp.available}
        if mdp.is_dense:
            built = MDP(chances, mdp.initial, **keys)
        else:
            built = MDP.from_successors(mdp.next_states, chances, mdp.initial, **keys)
        model = TrajectoryModel(built, case.model.reward, 4, case.temperature, case.discount, case.model.action_prior)
        for all_steps in (True, False):
            (found,) = gradients(model, kind, "native", [chances], all_steps)
            (expected,) = gradients(model, kind, "torch", [chances], all_steps)
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lowest", [1e6, None])
def test_gradients_where_sums_underflow(kind, lowest, monkeypatch):
    """With a bound that no sum reaches every state is done again by a shift of its own."""
    model = listed_model(5, 9, 2, 3, 40)
    reward = (model.reward_table(0)[..., 0] * (1.0 if lowest else 400.0)).clone().requires_grad_()
    model = model.replace(reward=reward)
    (expected,) = gradients(model, kind, "torch", [reward], True)
    if lowest:
        original = SoftPass.__init__

        def forced(self, *arguments, **options):
            original(self, *arguments, **options)
            self.smallest = lowest

        monkeypatch.setattr(SoftPass, "__init__", forced)
    (found,) = gradients(model, kind, "native", [reward], True)
    # Rewards of 400 times a normal number: values of size 1e4 round by 1e-12, and 40 steps of shares by as much each.
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", ["exact", "variational"])
def test_every_attribute_and_batches(backend):
    model = listed_model(7, 10, 3, 2, 40, discount=0.95)
    rewards = torch.stack([model.reward_table(0)[..., 0] * scale for scale in np.linspace(0.5, 2.0, 19)])
    names = ("values", "q_values", "action_probs", "state_marginals", "believed_return", "policy_entropy", "elbo")
    for keep in ("values", "evidence"):
        found = cai.infer(model.batch(reward=rewards), backend, kernel="native", keep=keep)
        for member in (0, 11, 18):  # 16 members make one pass
            expected = cai.infer(model.replace(reward=rewards[member]), backend, kernel="torch")
            alone = cai.infer(model.replace(reward=rewards[member]), backend, kernel="native", keep=keep)
            for name in names:
                want = getattr(expected, name)
                torch.testing.assert_close(getattr(found[member], name), want, rtol=1e-11, atol=1e-11)
                torch.testing.assert_close(getattr(alone, name), want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dense", [True, False])
def test_float32_and_threads(kind, dense, monkeypatch):
    """Large enough that loops are shared; every thread writes its own rows, so that their number changes nothing."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)), raising=False)
    model = listed_model(9, 3000, 4, 8, 6, discount=0.99, walls=not dense)
    if dense:
        chances = torch.rand(150, 4, 150, dtype=torch.float64)
        mdp = MDP(chances / chances.sum(-1, keepdim=True), torch.full((150,), 1 / 150, dtype=torch.float64))
        model = TrajectoryModel(mdp, torch.randn(150, 4, dtype=torch.float64), 6, discount=0.99)
    threads, answers = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            answers.append(soft_values(model, kind, kernel="native")[1])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])
    torch.testing.assert_close(answers[0], soft_values(model, kind, kernel="torch")[1], rtol=1e-12, atol=1e-12)
    single = soft_values(model.to(dtype=torch.float32), kind, kernel="native")[1]
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), answers[0], rtol=1e-5, atol=1e-5)


def test_powers_and_logarithms_are_exact_to_rounding():
    """One state and one action of K equal outcomes worth v: the answer is v, whatever its size."""
    random.seed(0)
    for value in [0.0, -1e-300, 1e-300, *(random.uniform(-1, 1) * 10.0 ** random.randint(-8, 4) for _ in range(200))]:
        mdp = MDP.from_successors([[[0]]], [[[1.0]]], [1.0])
        model = TrajectoryModel(mdp, torch.tensor([[value]], dtype=torch.float64), 1)
        for kind in KINDS:
            first, _ = soft_values(model, kind, kernel="native")
            assert abs(float(first) - value) <= 4e-16 * max(abs(value), 1.0)


def test_log_sums_against_many_digits():
    mpmath = pytest.importorskip("mpmath")
    draw = np.random.default_rng(3)
    for size in (1.0, 30.0, 600.0):
        rewards = draw.normal(size=(50, 5)) * size
        chances = np.zeros((50, 5, 50))
        chances[:, :, 0] = 1.0
        model = TrajectoryModel(MDP(chances, np.full(50, 0.02)), rewards, 1)
        for kind in KINDS:
            first, _ = soft_values(model, kind, kernel="native")
            for row, value in zip(rewards, first.tolist(), strict=True):
                exact = float(mpmath.log(mpmath.fsum(mpmath.exp(mpmath.mpf(x)) for x in row) / 5))
                assert abs(value - exact) < 4e-15 * max(1.0, abs(exact))


def test_other_devices_are_refused():
    model = listed_model(1, 4, 2, 2, 3)
    with elsewhere() as device:
        moved = model.to(device)
        with pytest.raises(ValueError, match="kernel 'native' runs on the CPU"):
            cai.infer(moved, "exact", kernel="native")
