"""Both backups and what follows from them, by plain loops over (t, s, a, k), in floats or in 60 digits.

Nothing of the library's message passing is used: a case is arrays, and an answer is the definition written out. The
same loops run on `math` and on an `mpmath` context of 60 digits, where |r| may be 1e4.
"""

import math
from dataclasses import dataclass, field

import mpmath
import numpy as np
import torch

from cai.models import MDP, CallableReward, OutcomeReward, TableReward, TrajectoryModel

DIGITS = mpmath.MPContext()
DIGITS.dps = 60
REWARD_KINDS = ("s", "sa", "sas", "sak")


@dataclass
class Case:
    """A problem as arrays: outcome k of (s, a) leads to next_states[s, a, k] and pays rewards[t, s, a, k]."""

    probabilities: np.ndarray  # [S, A, K]
    next_states: np.ndarray  # [S, A, K]
    rewards: np.ndarray  # [T, S, A, K], in reward units
    prior: np.ndarray  # [S, A]
    initial: np.ndarray  # [S]
    terminal: np.ndarray  # [S]
    temperature: float
    discount: float
    model: TrajectoryModel = field(repr=False)

    @property
    def horizon(self):
        return len(self.rewards)


@dataclass
class Answer:
    """Numbers in nats."""

    values: np.ndarray  # [T + 1, S]
    q_values: np.ndarray  # [T, S, A]
    policy: np.ndarray  # [T, S, A]
    start: float
    initial: np.ndarray | None  # [S]
    marginals: np.ndarray | None  # [T + 1, S], None where the start is infeasible
    visits: np.ndarray | None  # [S, A], of nonterminal states


def log_sum(numbers, scores):
    largest = max(scores, default=-math.inf)
    if largest == -math.inf:
        return -math.inf
    return largest + numbers.log(numbers.fsum([numbers.exp(score - largest) for score in scores]))


ANSWERS = {}  # loops in 60 digits take up to a second, and many tests ask about the same cases


def solve(case, kind, numbers=math):
    """The answer of "exact" or "fixed", made once a case; `numbers` is `math` or DIGITS."""
    arrays = (case.probabilities, case.next_states, case.rewards, case.prior, case.initial, case.terminal)
    content = tuple((part.shape, part.tobytes()) for part in arrays)
    key = hash((content, case.temperature, case.discount, kind, numbers is math))
    if key not in ANSWERS:
        ANSWERS[key] = solved(case, kind, numbers)
    return ANSWERS[key]


def solved(case, kind, numbers):
    number = float if numbers is math else numbers.mpf
    chances, following, prior = case.probabilities.tolist(), case.next_states.tolist(), case.prior.tolist()
    rewards, ends = case.rewards.tolist(), case.terminal.tolist()
    num_states, num_actions, num_outcomes = case.probabilities.shape
    alpha, gamma = number(case.temperature), number(case.discount)
    goes, falls = numbers.log(gamma), numbers.log(1 - gamma) if gamma < 1 else -math.inf

    def worth(t, s, a, k):  # log of e^rho (gamma e^v + 1 - gamma)
        end = following[s][a][k]
        return number(rewards[t][s][a][k]) / alpha + log_sum(numbers, [goes + values[t + 1][end], falls])

    def backed_up(t, s, a):
        possible = [k for k in range(num_outcomes) if chances[s][a][k] > 0]
        if kind == "exact":
            return log_sum(numbers, [numbers.log(number(chances[s][a][k])) + worth(t, s, a, k) for k in possible])
        terms = [number(rewards[t][s][a][k]) / alpha + gamma * values[t + 1][following[s][a][k]] for k in possible]
        if -math.inf in terms:
            return -math.inf
        return numbers.fsum([number(chances[s][a][k]) * term for k, term in zip(possible, terms, strict=True)])

    values = [[number(0)] * num_states for _ in range(case.horizon + 1)]
    q_values, policy = [], []
    for t in reversed(range(case.horizon)):
        table, rows = [], []
        for s in range(num_states):
            scores = [number(0) if ends[s] else backed_up(t, s, a) for a in range(num_actions)]
            table.append(scores)
            scored = [numbers.log(number(p)) + q if p > 0 else -math.inf for p, q in zip(prior[s], scores, strict=True)]
            values[t][s] = number(0) if ends[s] else log_sum(numbers, scored)
            infeasible = ends[s] or values[t][s] == -math.inf
            rows.append(prior[s] if infeasible else [numbers.exp(score - values[t][s]) for score in scored])
        q_values.insert(0, table)
        policy.insert(0, rows)
    first, starts = values[0], case.initial.tolist()
    possible = [s for s in range(num_states) if starts[s] > 0]
    if kind == "exact":
        start = log_sum(numbers, [numbers.log(number(starts[s])) + first[s] for s in possible])
    else:
        infeasible = any(first[s] == -math.inf for s in possible)
        start = -math.inf if infeasible else numbers.fsum([number(starts[s]) * first[s] for s in possible])
    initial = marginals = visits = None
    if start != -math.inf:
        initial = [number(p) for p in starts]
        if kind == "exact":
            initial = [number(p) * numbers.exp(v - start) if p > 0 else p for p, v in zip(starts, first, strict=True)]
        marginals, visits = [initial], [[number(0)] * num_actions for _ in range(num_states)]
        for t in range(case.horizon):
            arriving = [number(0)] * num_states
            for s in range(num_states):
                here = marginals[t][s]
                if ends[s] or here == 0:
                    arriving[s] += here
                    continue
                for a in range(num_actions):
                    joint = here * policy[t][s][a]
                    visits[s][a] += joint
                    for k in range(num_outcomes) if joint > 0 else ():
                        if chances[s][a][k] == 0:
                            continue
                        share, end = number(chances[s][a][k]) * gamma, following[s][a][k]
                        if kind == "exact":
                            rho = number(rewards[t][s][a][k]) / alpha
                            share *= numbers.exp(rho + values[t + 1][end] - q_values[t][s][a])
                        arriving[end] += joint * share
            marginals.append(arriving)
    parts = (None if part is None else np.array(part, dtype=float) for part in (initial, marginals, visits))
    tables = (np.array(part, dtype=float) for part in (values, q_values, policy))
    return Answer(*tables, float(start), *parts)


def random_case(
    seed, *, scale=2.0, reward=None, listed=None, in_time=None, horizon=None, discount=None, forbidden=True
):
    """A random problem: padding of probability 0, repeated next states, dead states, terminals, missing actions."""
    rng = np.random.default_rng(seed)
    num_states, num_actions = int(rng.integers(1, 7)), int(rng.integers(1, 5))
    horizon = int(rng.choice([1, 2, 3, 5, 8, 40], p=[0.2, 0.2, 0.2, 0.2, 0.15, 0.05])) if horizon is None else horizon
    reward = REWARD_KINDS[rng.integers(4)] if reward is None else reward
    listed = bool(reward == "sak" or rng.random() < 0.5) if listed is None else listed
    in_time = bool(rng.random() < 0.25) if in_time is None else in_time
    discount = float(rng.choice([1.0, 1.0, 0.95, 0.5])) if discount is None else discount
    temperature = float(rng.choice([0.3, 1.0, 2.5]))
    width = int(rng.integers(1, 5)) if listed else num_states
    shape = (num_states, num_actions, width)
    chances = rng.dirichlet(np.ones(width) * 0.7, size=shape[:2])
    chances[rng.random(shape) < 0.3] = 0.0
    chances[chances.sum(-1) == 0, 0] = 1.0
    chances /= chances.sum(-1, keepdims=True)
    following = rng.integers(num_states, size=shape) if listed else np.broadcast_to(np.arange(num_states), shape).copy()
    ends = (rng.random(num_states) < 0.2) & (np.arange(num_states) > 0)
    dead = (rng.random(num_states) < 0.15) & ~ends if forbidden else np.zeros(num_states, dtype=bool)
    if listed and dead.any():
        following[chances == 0] = np.flatnonzero(dead)[0]
    for state in np.flatnonzero(ends):
        chances[state], following[state] = 0.0, state if listed else np.arange(num_states)
        chances[state, :, 0 if listed else state] = 1.0
    available = rng.random(shape[:2]) < 0.75
    available[np.arange(num_states), rng.integers(num_actions, size=num_states)] = True
    prior = rng.dirichlet(np.ones(num_actions), size=num_states) if rng.random() < 0.6 else None
    initial = rng.dirichlet(np.ones(num_states))
    initial[rng.random(num_states) < 0.3] = 0.0
    initial = initial / initial.sum() if initial.sum() > 0 else np.eye(num_states)[0]
    times = horizon if in_time else 1
    sizes = {"s": shape[:1], "sa": shape[:2], "sas": (*shape[:2], num_states), "sak": shape}
    table = rng.normal(0.0, scale, size=(times, *sizes[reward]))
    if forbidden:
        table[rng.random(table.shape) < 0.05] = -np.inf
        table[:, dead] = -np.inf
    table[:, ends] = 0.0
    keys = {"initial": initial, "available": available, "terminal": ends}
    mdp = MDP.from_successors(following, chances, **keys) if listed else MDP(chances, **keys)
    factor = _factor(table, reward, in_time)
    weights = available / 1.0 if prior is None else prior * available
    full = {"s": table[..., None, None], "sa": table[..., None]}.get(reward, table)
    if reward == "sas":
        full = np.take_along_axis(table, np.broadcast_to(following, (times, *shape)), -1)
    return Case(
        probabilities=chances,
        next_states=following,
        rewards=np.broadcast_to(full, (horizon, *shape)),
        prior=weights / weights.sum(-1, keepdims=True),
        initial=initial,
        terminal=ends,
        temperature=temperature,
        discount=discount,
        model=TrajectoryModel(mdp, factor, horizon, temperature, discount, prior, name=f"case-{seed}"),
    )


def _factor(table, kind, in_time):
    if not in_time:
        return OutcomeReward(table[0]) if kind == "sak" else TableReward(table[0])
    if kind == "sak":
        return sum(OutcomeReward(rows).at(times=[t]) for t, rows in enumerate(table))
    tables = torch.as_tensor(table)
    axes = {"s": 1, "sa": 2, "sas": 3}[kind]
    return CallableReward(lambda s, a, following, t: tables[(t, s, a, following)[: axes + 1]], axes == 3, True)


def case_of(mdp, table, horizon, temperature=1.0, discount=1.0, prior=None):
    """The case of a process of the library and a reward [S, A], to hold larger problems against the same loops."""
    model = TrajectoryModel(mdp, TableReward(table), horizon, temperature, discount, prior)
    chances = mdp.probabilities.numpy()
    rewards = np.where(mdp.terminal.numpy()[:, None, None], 0.0, np.asarray(table)[..., None])
    return Case(
        probabilities=chances,
        next_states=np.broadcast_to(mdp.successors().numpy(), chances.shape),
        rewards=np.broadcast_to(rewards, (horizon, *chances.shape)),
        prior=model.action_prior.numpy(),
        initial=mdp.initial.numpy(),
        terminal=mdp.terminal.numpy(),
        temperature=temperature,
        discount=discount,
        model=model,
    )
