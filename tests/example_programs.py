"""Pyro programs with the site names that are no TrajectoryModel: small chains, with and without a wind."""

import itertools

import pyro
import pyro.distributions as dist
import torch

START = torch.tensor([0.7, 0.3, 0.0], dtype=torch.float64)
MOVE = torch.tensor(
    [
        [[0.6, 0.4, 0.0], [0.1, 0.2, 0.7]],
        [[0.0, 0.5, 0.5], [0.3, 0.3, 0.4]],
        [[0.2, 0.0, 0.8], [0.0, 1.0, 0.0]],
    ],
    dtype=torch.float64,
)
PRIOR = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.25, 0.75]], dtype=torch.float64)
REWARD = torch.tensor(
    [
        [[0.0, -1.0, 2.0], [-0.5, 1.0, -2.0]],
        [[1.0, 0.3, -1.0], [0.2, -0.2, 0.8]],
        [[-1.5, 0.0, 0.5], [2.0, -3.0, 0.0]],
    ],
    dtype=torch.float64,
)
WIND = torch.tensor([0.8, 0.2], dtype=torch.float64)
WINDY = torch.stack([MOVE, MOVE.flip(-1).roll(1, 0)])  # [W, S, A, S]


def drawn_at_the_end(horizon):
    """s_{t+1} is drawn at the end of iteration t, and the factor reads it."""

    def program():
        state = pyro.sample("s_1", dist.Categorical(START))
        for t in pyro.markov(range(1, horizon + 1)):
            action = pyro.sample(f"a_{t}", dist.Categorical(PRIOR[state]))
            following = pyro.sample(f"s_{t + 1}", dist.Categorical(MOVE[state, action]))
            pyro.factor(f"O_{t}", REWARD[state, action, following])
            state = following

    return program


def drawn_first(horizon):
    """s_t is drawn first, and then a factor looks back at s_{t-1}, a_{t-1} and s_t; no s_{T+1}."""

    def program():
        state = action = None
        for t in pyro.markov(range(1, horizon + 1)):
            before, taken = state, action
            row = START if before is None else MOVE[before, taken]
            state = pyro.sample(f"s_{t}", dist.Categorical(row))
            if before is not None:
                pyro.factor(f"O_{t - 1}", REWARD[before, taken, state])
            action = pyro.sample(f"a_{t}", dist.Categorical(PRIOR[state]))
            if t == horizon:
                pyro.factor(f"O_{t}", REWARD[state, action, torch.tensor(0)])

    return program


def windy(horizon):
    """A further latent at each step, drawn before the action, which the policy does not see."""

    def program():
        state = pyro.sample("s_1", dist.Categorical(START))
        for t in pyro.markov(range(1, horizon + 1)):
            wind = pyro.sample(f"wind_{t}", dist.Bernoulli(WIND[1]))
            action = pyro.sample(f"a_{t}", dist.Categorical(PRIOR[state]))
            following = pyro.sample(f"s_{t + 1}", dist.Categorical(WINDY[wind.long(), state, action]))
            pyro.sample(f"O_{t}", dist.Bernoulli((REWARD[state, action, following] - 3.0).exp()), obs=torch.tensor(1.0))
            state = following

    return program


def wind_after_action(horizon):
    """The same chain with each wind drawn after its action."""

    def program():
        state = pyro.sample("s_1", dist.Categorical(START))
        for t in pyro.markov(range(1, horizon + 1)):
            action = pyro.sample(f"a_{t}", dist.Categorical(PRIOR[state]))
            wind = pyro.sample(f"wind_{t}", dist.Bernoulli(WIND[1]))
            following = pyro.sample(f"s_{t + 1}", dist.Categorical(WINDY[wind.long(), state, action]))
            pyro.factor(f"O_{t}", REWARD[state, action, following] - 3.0)
            state = following

    return program


def persistent(horizon):
    """A wind that stays: s_t alone does not screen off the past."""

    def program():
        wind = pyro.sample("wind", dist.Categorical(WIND))
        state = pyro.sample("s_1", dist.Categorical(START))
        for t in pyro.markov(range(1, horizon + 1)):
            action = pyro.sample(f"a_{t}", dist.Categorical(PRIOR[state]))
            following = pyro.sample(f"s_{t + 1}", dist.Categorical(WINDY[wind, state, action]))
            pyro.factor(f"O_{t}", REWARD[state, action, following])
            state = following

    return program


def all_paths(horizon):
    """Every path of `persistent`: (wind, states, actions, log prior, log score)."""
    for wind in range(2):
        for states in itertools.product(range(3), repeat=horizon + 1):
            for actions in itertools.product(range(2), repeat=horizon):
                prior = float(WIND[wind] * START[states[0]])
                score = 0.0
                for t in range(horizon):
                    prior *= float(PRIOR[states[t], actions[t]] * WINDY[wind, states[t], actions[t], states[t + 1]])
                    score += float(REWARD[states[t], actions[t], states[t + 1]])
                if prior > 0:
                    yield wind, states, actions, prior, score
