"""Linearly solvable MDPs that tests share, and how two answers are held against each other."""

import math

import numpy as np
import torch

from cai.inference import StructuredVariational
from cai.inference.tabular.methods.z_iteration import ZIteration
from cai.models.trajectory.lmdp import LMDP

INF, NAN = math.inf, math.nan
FIELDS = ("values", "q_values", "action_probs", "state_marginals", "absorbed", "elbo", "believed_return")
FIELDS += ("policy_divergence", "policy_entropy")
TEMPERATURES = (0.3, 1.0, 2.5)
SHARP = StructuredVariational(tolerance=1e-14)  # over an infinite horizon its default leaves 1e-9


def random_lmdp(seed, *, size=None, forbidden=True, sure_start=True, positive=True, signs=False):
    """A random problem: sparse passive dynamics, forbidden states and endings, rewards for ending somewhere."""
    rng = np.random.default_rng(seed)
    size = size or int(rng.integers(2, 7))
    passive = rng.dirichlet(np.full(size, 0.7), size=size)
    passive = np.where(rng.random(passive.shape) < 0.35, 0.0, passive)
    passive[passive.sum(1) == 0, -1] = 1.0
    terminal = rng.random(size) < 0.25
    terminal[0], terminal[-1] = False, True
    passive[terminal] = np.eye(size)[terminal]
    cost = rng.exponential(1.0, size) + 0.05 if positive else rng.choice([0.0, 0.3, 2.0], size)
    if signs:
        cost = cost - 0.4
    final = np.abs(rng.normal(0.0, 2.0, size)) if positive else rng.normal(0.0, 2.0, size)
    if forbidden:
        cost = np.where(rng.random(size) < 0.1, INF, cost)
        final = np.where(rng.random(size) < 0.1, INF, final)
    cost[terminal] = 0.0
    initial = np.eye(size)[0] if sure_start else rng.dirichlet(np.ones(size))
    return LMDP(passive / passive.sum(1, keepdims=True), cost, initial, terminal, final)


def chain(length, cost, final=0.0):
    """A walk to either side with even odds; it turns back at 0 and ends in the last state."""
    following = [[min(i + 1, length - 1), max(i - 1, 0)] for i in range(length)]
    following[-1] = [length - 1] * 2
    weights = [[0.5, 0.5]] * (length - 1) + [[1.0, 0.0]]
    start = np.eye(length)[0]
    return LMDP.from_successors(following, weights, cost, start, terminal=[length - 1], final_cost=final)


def close(left, right, tolerance=1e-9):
    """Equal infinities, and numbers to a relative tolerance."""
    left, right = (torch.as_tensor(side, dtype=torch.float64).detach() for side in (left, right))
    same = torch.isinf(left) & (left == right)
    return bool((same | ((left - right).abs() <= tolerance * right.abs().clamp(min=1.0))).all())


def agree(left, right, seed, tolerance=1e-9, fields=FIELDS):
    assert left.status is right.status, (seed, left.status, right.status)
    for name in fields:
        one, other = getattr(left, name), getattr(right, name)
        assert (one is None) == (other is None), (seed, name)
        assert one is None or close(one, other, tolerance), (seed, name, one, other)


P = [[0.5, 0.5], [0.0, 1.0]]
ONE, TWO = LMDP(P, [1, 0], [1, 0], [1]), LMDP(P, [2, 0], [1, 0], [1])


def small(passive=P, state_cost=(1.0, 0.0), initial=(1, 0), terminal=(1,), **options):
    return LMDP(passive, state_cost, initial, terminal, **options)


def listed(following=((0, 1), (1, 1)), weights=((0.5, 0.5), (1.0, 0.0))):
    return LMDP.from_successors(following, weights, 1.0, [1, 0])


def solved(problem=ONE, backend=None, **options):
    return (backend or ZIteration()).run(problem.to_model(**{"horizon": INF, **options}))
