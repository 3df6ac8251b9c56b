"""Soft policies of small worlds and all their trajectories, in plain Python, for tests of adversarial methods."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch

from cai.inverse import Demonstrations
from cai.models import MDP, TableReward, TrajectoryModel


@dataclass
class World:
    """A finite world.

    Attributes:
        moves: [S][A] lists of (probability, next state).
        rewards: [S][A].
        prior: [S][A], p(a | s).
        start: [S].
        ends: terminal states.
        horizon: T.
        discount: gamma.
        temperature: alpha.
    """

    moves: list
    rewards: np.ndarray
    prior: np.ndarray
    start: np.ndarray
    ends: tuple
    horizon: int
    discount: float
    temperature: float

    @property
    def model(self):
        states, actions = self.rewards.shape
        table = np.zeros((states, actions, states))
        for s, a in itertools.product(range(states), range(actions)):
            for p, following in self.moves[s][a]:
                table[s, a, following] += p
        mdp = MDP(transitions=table, initial=self.start, terminal=list(self.ends))
        return TrajectoryModel(
            mdp,
            TableReward(torch.tensor(self.rewards)),
            horizon=self.horizon,
            discount=self.discount,
            temperature=self.temperature,
            action_prior=torch.tensor(self.prior),
        )

    def solved(self):
        """(V [T + 1, S] over alpha, log pi [T, S, A]) in the KL form, backwards from the end."""
        states, actions = self.rewards.shape
        values, logs = np.zeros((self.horizon + 1, states)), np.zeros((self.horizon, states, actions))
        for t in reversed(range(self.horizon)):
            for s in range(states):
                if s in self.ends:
                    continue
                q = [
                    self.rewards[s, a] / self.temperature
                    + math.log(self.prior[s, a])
                    + self.discount * sum(p * values[t + 1, n] for p, n in self.moves[s][a])
                    for a in range(actions)
                ]
                values[t, s] = math.log(sum(map(math.exp, q)))
                logs[t, s] = np.array(q) - values[t, s]
        return values, logs

    def _moves(self, state):
        """(action, probability, next state) of all that can happen."""
        return [(a, p, n) for a in range(self.rewards.shape[1]) for p, n in self.moves[state][a]]

    def paths(self, probs):
        """Every trajectory of a policy [T, S, A] as (states, actions, probability)."""
        going = [([s], [], float(p)) for s, p in enumerate(self.start) if p > 0]
        done = []
        for t in range(self.horizon):
            longer = []
            for states, actions, p in going:
                if states[-1] in self.ends:
                    done.append((states, actions, p))
                    continue
                for a, q, following in self._moves(states[-1]):
                    longer.append(([*states, following], [*actions, a], p * float(probs[t, states[-1], a]) * q))
            going = longer
        return done + going

    def shown(self, probs):
        """All trajectories as demonstrations that weigh what they are likely."""
        states, actions, weights = zip(*self.paths(probs), strict=True)
        return Demonstrations(list(states), list(actions), weights=list(weights))

    def visits(self, probs):
        """[T, S, A], discounted."""
        found = np.zeros((self.horizon, *self.rewards.shape))
        for states, actions, p in self.paths(probs):
            for t, a in enumerate(actions):
                found[t, states[t], a] += p * self.discount**t
        return found


def random_world(seed, *, noise=False, states=4, actions=2, horizon=4, state_only=False, ends=True):
    """A world with random successors; with noise each action has two of them."""
    rng = np.random.default_rng(seed)
    last = (states - 1,) if ends else ()
    moves = []
    for s in range(states):
        row = []
        for _ in range(actions):
            if s in last:
                row.append([(1.0, s)])
            elif noise:
                first, second = rng.choice(states, 2, replace=False)
                row.append([(0.7, int(first)), (0.3, int(second))])
            else:
                row.append([(1.0, int(rng.integers(states)))])
        moves.append(row)
    rewards = rng.normal(size=(states, 1 if state_only else actions)) * np.ones((states, actions))
    rewards[list(last)] = 0.0
    prior = np.full((states, actions), 1 / actions) if state_only else rng.dirichlet(np.full(actions, 4.0), size=states)
    start = np.array([0.0 if s in last else 1.0 for s in range(states)])
    return World(moves, rewards, prior, start / start.sum(), last, horizon, 0.9, 0.7)
