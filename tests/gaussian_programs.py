"""A linear-Gaussian program and its posterior in closed form."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch


def gaussian(horizon, start=0.5, noise=0.3, price=0.4, cost=0.2):
    """A random walk that actions push, paid -price s'^2 - cost a^2 at each step."""

    def program():
        state = pyro.sample("s_1", dist.Normal(torch.tensor(start), 1.0))
        for t in range(1, horizon + 1):
            action = pyro.sample(f"a_{t}", dist.Normal(torch.tensor(0.0), 0.8))
            state = pyro.sample(f"s_{t + 1}", dist.Normal(state + action, noise))
            pyro.factor(f"O_{t}", -price * state**2 - cost * action**2)

    return program


def gaussian_prior(horizon, start=0.5, noise=0.3, price=0.4, cost=0.2):
    """(mean, covariance, Q) of z = (s_1, ..., s_{T+1}, a_1, ..., a_T) and of the score -z' Q z / 2."""
    mixing = np.zeros((2 * horizon + 1, 2 * horizon + 1))  # from (s_1, noises, actions) to z
    mixing[: horizon + 1, 0] = 1.0
    for t in range(1, horizon + 1):
        mixing[t, 1 : t + 1] = noise
        mixing[t, horizon + 1 : horizon + 1 + t] = 0.8
    mixing[horizon + 1 :, horizon + 1 :] = 0.8 * np.eye(horizon)
    mean = np.r_[np.full(horizon + 1, start), np.zeros(horizon)]
    return mean, mixing @ mixing.T, 2 * np.diag(np.r_[0.0, np.full(horizon, price), np.full(horizon, cost)])


def gaussian_posterior(horizon):
    """(mean, covariance) of z given optimality: precision C^-1 + Q."""
    mean, covariance, prices = gaussian_prior(horizon)
    inner = np.eye(len(mean)) + covariance @ prices
    return np.linalg.solve(inner, mean), np.linalg.solve(inner, covariance)
