"""Brute force over every trajectory of a tiny problem, in plain Python on plain lists, and the problems themselves.

Nothing of the library's message passing is used: a problem is lists of outcomes, and an answer is a sum over all
paths, or a recursion written out as in the definitions.
"""

import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from cai.models import MDP, OutcomeReward, TableReward, TrajectoryModel


@dataclass
class Problem:
    """A tiny problem as plain data: outcomes[s][a] = [(probability, next state, rewards over time), ...]."""

    initial: list
    outcomes: list
    prior: list  # [s][a], 0 where not available
    terminal: list
    horizon: int
    temperature: float
    discount: float
    model: TrajectoryModel = field(repr=False)

    @property
    def num_states(self):
        return len(self.initial)

    @property
    def num_actions(self):
        return len(self.prior[0])


def moves(problem, state, t):
    """(action, prior, next state or None once fallen, probability, reward) of one step; all of them possible."""
    for action, prior in enumerate(problem.prior[state]):
        if prior == 0:
            continue
        if problem.terminal[state]:
            yield action, prior, state, 1.0, 0.0, 0
            continue
        for k, (probability, following, rewards) in enumerate(problem.outcomes[state][action]):
            if probability == 0:
                continue
            reward = rewards[t]
            yield action, prior, following, probability * problem.discount, reward, k
            if problem.discount < 1:
                yield action, prior, None, probability * (1 - problem.discount), reward, k


def paths(problem, state, t):
    """Every path from (t, state) on: a list of steps and its prior probability and reward."""
    if t == problem.horizon or state is None:
        yield [], 1.0, 0.0
        return
    for action, prior, following, probability, reward, k in moves(problem, state, t):
        if probability == 0:
            continue
        for rest, chance, total in paths(problem, following, t + 1):
            yield [(state, action, following, k), *rest], prior * probability * chance, reward + total


def log_beta(problem, state, t):
    """log p(O_{t:T} | s_t) by summing over paths."""
    scores = [math.log(p) + r / problem.temperature for _, p, r in paths(problem, state, t)]
    return log_sum(scores)


def log_sum(scores):
    largest = max(scores, default=-math.inf)
    if largest == -math.inf:
        return -math.inf
    return largest + math.log(math.fsum(math.exp(score - largest) for score in scores))


@dataclass
class Exact:
    log_evidence: float
    marginals: np.ndarray  # [T + 1, S]
    policy: dict  # (t, s) -> [A]
    dynamics: dict  # (t, s, a) -> [S]
    believed_return: float
    policy_divergence: float
    policy_entropy: float
    luck: float


def exact(problem):
    """The posterior over all paths, and what follows from it."""
    horizon, num_states, num_actions = problem.horizon, problem.num_states, problem.num_actions
    every = []
    for start, chance in enumerate(problem.initial):
        if chance == 0:
            continue
        for steps, probability, reward in paths(problem, start, 0):
            score = math.log(chance) + math.log(probability) + reward / problem.temperature
            if score > -math.inf:
                every.append((start, steps, score, reward))
    evidence = log_sum([score for _, _, score, _ in every])
    joint = defaultdict(float)  # (t, s, a, s' or None, k) -> probability
    marginals = np.zeros((horizon + 1, num_states))
    starts = np.zeros(num_states)
    returns = 0.0
    for start, steps, score, reward in every:
        weight = math.exp(score - evidence)
        if weight == 0:
            continue
        returns += weight * reward
        starts[start] += weight
        marginals[0, start] += weight
        for t, (state, action, following, k) in enumerate(steps):
            joint[t, state, action, following, k] += weight
            if following is not None:
                marginals[t + 1, following] += weight
    policy, dynamics = {}, {}
    pairs, singles = defaultdict(float), defaultdict(float)
    for (t, state, action, _, _), weight in joint.items():
        pairs[t, state, action] += weight
        singles[t, state] += weight
    for t, state in singles:
        policy[t, state] = [pairs[t, state, a] / singles[t, state] for a in range(num_actions)]
    bent = 0.0
    for (t, state, action, following, k), weight in joint.items():
        row = dynamics.setdefault((t, state, action), np.zeros(num_states))
        if following is not None:
            row[following] += weight / pairs[t, state, action]
        if not problem.terminal[state]:
            prior = problem.outcomes[state][action][k][0]
            prior *= problem.discount if following is not None else 1 - problem.discount
            bent += weight * math.log(weight / pairs[t, state, action] / prior)
    kl = entropy = 0.0
    for (t, state), weight in singles.items():
        if problem.terminal[state]:
            continue
        for action, chance in enumerate(policy[t, state]):
            if chance > 0:
                kl += weight * chance * math.log(chance / problem.prior[state][action])
                entropy -= weight * chance * math.log(chance)
    luck = bent + sum(q * math.log(q / problem.initial[s]) for s, q in enumerate(starts) if q > 0)
    return Exact(evidence, marginals, policy, dynamics, returns, kl, entropy, luck)


def fixed(problem, state, t):
    """(v, policy row) of the best policy under the true dynamics, in nats, by recursion on the definition."""
    if t == problem.horizon or state is None or problem.terminal[state]:
        return 0.0, None
    totals = {}
    for action, _, following, probability, reward, _ in moves(problem, state, t):
        gain = reward / problem.temperature + fixed(problem, following, t + 1)[0]
        totals[action] = totals.get(action, 0.0) + (probability * gain if probability > 0 else 0.0)
    scores = {a: math.log(problem.prior[state][a]) + q for a, q in totals.items()}
    value = log_sum(list(scores.values()))
    if value == -math.inf:
        return value, list(problem.prior[state])
    return value, [math.exp(scores[a] - value) if a in scores else 0.0 for a in range(problem.num_actions)]


REWARD_KINDS = ("s", "sa", "sas", "sak")


def random_problem(
    seed, *, reward=None, discount=None, terminals=None, forbidden=True, deterministic=False, horizon=None
):
    """A random tiny problem: zero-probability transitions, unavailable actions, any prior, temperature, discount.

    Its model is dense or made of successor lists (always the latter with rewards [S, A, K]).
    """
    rng = np.random.default_rng(seed)
    num_states, num_actions = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    horizon = int(rng.integers(1, 4)) if horizon is None else horizon
    reward = REWARD_KINDS[rng.integers(4)] if reward is None else reward
    listed = reward == "sak" or bool(rng.random() < 0.4)
    width = int(rng.integers(1, 4)) if listed else num_states
    discount = float(rng.choice([1.0, 1.0, 0.9, 0.5])) if discount is None else discount
    temperature = float(rng.choice([0.3, 1.0, 2.5]))
    chances = rng.dirichlet(np.ones(width), size=(num_states, num_actions))
    chances = np.where(rng.random(chances.shape) < 0.3, 0.0, chances)
    chances[chances.sum(-1) == 0, 0] = 1.0
    if deterministic:
        chances = np.eye(width)[rng.integers(width, size=(num_states, num_actions))]
    chances /= chances.sum(-1, keepdims=True)
    if listed:
        following = rng.integers(num_states, size=chances.shape)
    else:
        following = np.broadcast_to(np.arange(num_states), chances.shape).copy()
    ends = rng.random(num_states) < (0.25 if terminals is None else terminals)
    if ends.all():
        ends[0] = False
    for state in np.flatnonzero(ends):
        chances[state] = 0.0
        chances[state, :, 0 if listed else state] = 1.0
        following[state] = state if listed else following[state]
    available = rng.random((num_states, num_actions)) < 0.8
    available[np.arange(num_states), rng.integers(num_actions, size=num_states)] = True
    initial = np.eye(num_states)[rng.integers(num_states)] if deterministic else rng.dirichlet(np.ones(num_states))
    if not deterministic and num_states > 1 and rng.random() < 0.3:
        initial[rng.integers(num_states)] = 0.0
        initial /= initial.sum()
    prior = None
    if rng.random() < 0.6:
        prior = rng.dirichlet(np.ones(num_actions), size=num_states)
        prior = np.where((rng.random(prior.shape) < 0.15) & ~available, 0.0, prior)
        prior /= prior.sum(-1, keepdims=True)
    shapes = {"s": (num_states,), "sa": (num_states, num_actions), "sas": (num_states, num_actions, num_states)}
    table = rng.normal(0.0, 2.0, size=shapes.get(reward, chances.shape))
    if forbidden and rng.random() < 0.3:
        table = np.where(rng.random(table.shape) < 0.15, -np.inf, table)
    table[ends] = 0.0
    keys = {"initial": initial, "available": available, "terminal": ends}
    mdp = MDP.from_successors(following, chances, **keys) if listed else MDP(chances, **keys)
    model = TrajectoryModel(
        mdp,
        OutcomeReward(table) if reward == "sak" else TableReward(table),
        horizon,
        temperature,
        discount,
        prior,
        name=f"random-{seed}",
    )
    return Problem(
        initial=(initial / initial.sum()).tolist(),
        outcomes=_outcomes(chances, following, table, reward, horizon),
        prior=_prior(prior, available),
        terminal=ends.tolist(),
        horizon=horizon,
        temperature=temperature,
        discount=discount,
        model=model,
    )


def _outcomes(chances, following, table, kind, horizon):
    result = []
    for state in range(chances.shape[0]):
        rows = []
        for action in range(chances.shape[1]):
            row = []
            for k in range(chances.shape[2]):
                successor = int(following[state, action, k])
                index = {
                    "s": (state,),
                    "sa": (state, action),
                    "sas": (state, action, successor),
                    "sak": (state, action, k),
                }
                row.append((float(chances[state, action, k]), successor, [float(table[index[kind]])] * horizon))
            rows.append(row)
        result.append(rows)
    return result


def _prior(prior, available):
    weights = available.astype(float) if prior is None else prior * available
    return (weights / weights.sum(-1, keepdims=True)).tolist()
