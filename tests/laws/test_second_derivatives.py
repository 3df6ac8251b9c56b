"""Second derivatives over infinite horizons are differences of the first, over combinations of features."""

import math

import pytest
import torch
from campaigns import over_seeds

import cai
from cai.inference.core.status import NotKnown
from cai.models import MDP, OutcomeReward, TrajectoryModel

BACKENDS = ("exact", "variational", "optimistic", "risk:eta=-1", "risk:eta=0.5", "value-iteration")
STEP = 2.0**-14
NUMBERS = ("log_evidence", "elbo", "believed_return", "luck", "policy_divergence", "policy_entropy", "gain")


def rows(generator, *shape):
    drawn = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.05
    return drawn / drawn.sum(-1, keepdim=True)


def problem(seed):
    """A function from (rewards [S, A, K], log temperature, action prior scores [S, A]) to a model, and a point."""
    generator = torch.Generator().manual_seed(seed)
    states, actions, outcomes = (int(torch.randint(2, 5, (), generator=generator)) for _ in range(3))
    following = torch.randint(0, states, (states, actions, outcomes), generator=generator)
    following[..., 0] = (torch.arange(states)[:, None] + 1) % states  # all states lead to each other
    average, discount = seed % 3 == 0, (1.0, 0.9, 0.5)[seed % 3]
    terminal = [0] if seed % 2 and not average else None
    following[0] = 0 if terminal else following[0]
    chances, start = rows(generator, states, actions, outcomes), [1 / states] * states
    mdp = MDP.from_successors(following, chances, start, terminal=terminal)
    rewards = -torch.rand(following.shape, generator=generator, dtype=torch.float64) - 0.1
    if seed % 5 == 0 and actions > 1:
        rewards[1, 0] = -math.inf
    if terminal:
        rewards[0] = 0
    scores = torch.zeros(states, actions, dtype=torch.float64)
    settled = {"horizon": math.inf, "discount": discount, "criterion": "average" if average else "total"}

    def model(rewards, log_temperature, scores):
        reward = OutcomeReward(rewards)
        return TrajectoryModel(
            mdp, reward, temperature=log_temperature.exp(), action_prior=scores.softmax(-1), **settled
        )

    return model, (rewards, torch.zeros((), dtype=torch.float64), scores), generator


def looks(answer, generator):
    """A number made of all that the answer holds, with weights of the generator."""
    parts = [answer.number(name) for name in NUMBERS]
    parts += [answer.values, answer.action_probs, answer.state_marginals]
    total = torch.zeros((), dtype=torch.float64)
    for part in parts:
        if part is not None and part.requires_grad:
            weights = torch.randn(part.shape, generator=generator, dtype=torch.float64)
            kept = torch.isfinite(part.detach())
            total = total + (part[kept] * weights[kept]).sum()
    return total


def check(backend, seed):
    model, point, generator = problem(seed)
    mark = generator.get_state()
    ways = [torch.randn(part.shape, generator=generator, dtype=torch.float64) for part in point]
    ways[0][~torch.isfinite(point[0]) | (point[0] == 0)] = 0

    def slope(length, again=False):
        """The derivative along `ways` at some length of them, with its history."""
        moved = [(part + length * way).requires_grad_() for part, way in zip(point, ways, strict=True)]
        answer = cai.infer(model(*moved), backend, throw=False)
        if answer.status is not cai.Status.SUCCESS:
            return None
        slopes = torch.autograd.grad(
            looks(answer, torch.Generator().set_state(mark)), moved, create_graph=again, materialize_grads=True
        )
        along = sum(((slope * way)[way != 0]).sum() for slope, way in zip(slopes, ways, strict=True))
        if not again:
            return float(along)
        further = torch.autograd.grad(along, moved, materialize_grads=True)
        second = sum(float(((slope * way)[way != 0]).sum()) for slope, way in zip(further, ways, strict=True))
        return float(along.detach()), second

    if slope(0.0) is None:
        return 0
    first, got = slope(0.0, again=True)
    near, far = [(slope(k * STEP), slope(-k * STEP)) for k in (1, 2)]
    want = (8 * (near[0] - near[1]) - (far[0] - far[1])) / (12 * STEP)
    assert first == pytest.approx(slope(0.0), rel=1e-8, abs=1e-8), (backend, seed)
    assert got == pytest.approx(want, rel=1e-5, abs=1e-5 * max(1.0, abs(first))), (backend, seed)
    return 1


@pytest.mark.parametrize("backend", BACKENDS)
@over_seeds(range(60), quick=5)
def test_second_derivatives_are_those_of_differences(backend, seeds):
    tried = sum(check(backend, seed) for seed in seeds)
    assert tried > len(seeds) / 3


@pytest.mark.parametrize("backend", ["exact", "variational", "risk:eta=-1"])
@pytest.mark.parametrize("seed", [0, 1, 2])  # the average criterion, discounts of .9 and .5
def test_third_derivatives_are_refused(backend, seed):
    model, point, _ = problem(seed)
    rewards, *others = point
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    answer = cai.infer(model(torch.where(rewards == 0, rewards, scale * rewards), *others), backend)
    (first,) = torch.autograd.grad(answer.elbo, scale, create_graph=True)
    (second,) = torch.autograd.grad(first, scale, create_graph=True)
    with pytest.raises(NotKnown, match="infinite horizon does not know third derivatives"):
        torch.autograd.grad(second, scale)
