"""Three planning problems written as plain functions, a linear one as a model, and the regulator as a plain loop."""

import math

import numpy as np
import torch

from cai.models import ContinuousModel, Flat, LinearGaussianModel, LinearNormal, QuadraticReward

DT = 0.05


def limited(a, limit):
    return limit * torch.tanh(a[..., 0] / limit)


def pendulum_step(s, a, t):
    angle, speed = s.unbind(-1)
    speed = speed + DT * (9.81 * torch.sin(angle) + limited(a, 5.0) - 0.1 * speed)
    return torch.stack([angle + DT * speed, speed], -1)


def pendulum_reward(s, a, t):
    angle, speed = s.unbind(-1)
    return -DT * (5 * (1 - torch.cos(angle)) + 0.05 * speed**2 + 0.05 * a[..., 0] ** 2)


def pendulum_final(s):
    return -50 * (1 - torch.cos(s[..., 0])) - 2.5 * s[..., 1] ** 2


def cart_step(s, a, t):
    x, angle, velocity, speed = s.unbind(-1)
    sin, cos, push = torch.sin(angle), torch.cos(angle), limited(a, 10.0)
    shared = (push + 0.05 * speed**2 * sin) / 1.1
    turn = (9.81 * sin - cos * shared) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
    velocity = velocity + DT * (shared - 0.05 * turn * cos / 1.1)
    speed = speed + DT * turn
    return torch.stack([x + DT * velocity, angle + DT * speed, velocity, speed], -1)


def cart_reward(s, a, t):
    x, angle, velocity, speed = s.unbind(-1)
    cost = 0.5 * x**2 + 5 * (1 - torch.cos(angle)) + 0.05 * velocity**2 + 0.05 * speed**2 + 0.01 * a[..., 0] ** 2
    return -DT * cost


def cart_final(s):
    x, angle, velocity, speed = s.unbind(-1)
    return -10 * x**2 - 50 * (1 - torch.cos(angle)) - velocity**2 - speed**2


def dubins_step(s, a, t):
    x, y, heading = s.unbind(-1)
    heading = heading + 0.1 * limited(a, 1.5)
    return torch.stack([x + 0.1 * torch.cos(heading), y + 0.1 * torch.sin(heading), heading], -1)


def discs(s):
    cost = 0.0
    for x, y, radius in ((2.0, 0.3, 0.8), (3.6, -0.7, 0.7)):
        distance = torch.sqrt((s[..., 0] - x) ** 2 + (s[..., 1] - y) ** 2 + 1e-12)
        cost = cost + torch.nn.functional.softplus((radius + 0.1 - distance) / 0.05)
    return cost


def dubins_reward(s, a, t):
    return -discs(s) - 0.05 * a[..., 0] ** 2


def dubins_final(s):
    return -10 * ((s[..., 0] - 5) ** 2 + s[..., 1] ** 2) - discs(s)


STARTS = {"pendulum": [math.pi, 0.0], "cart-pole": [0.0, math.pi, 0.0, 0.0], "dubins": [0.0, 0.0, 0.0]}
PARTS = {
    "pendulum": (pendulum_step, pendulum_reward, pendulum_final, 100),
    "cart-pole": (cart_step, cart_reward, cart_final, 100),
    "dubins": (dubins_step, dubins_reward, dubins_final, 70),
}


def planning_model(name, **changes):
    step, reward, final, horizon = PARTS[name]
    options = {"horizon": horizon, "action_prior": Flat(1), "final_reward": final, "name": name} | changes
    return ContinuousModel(torch.tensor(STARTS[name], dtype=torch.float64), step, reward, **options)


def as_model(numbers, **changes):
    """A random linear-Gaussian problem of `gaussian_oracle` as a model."""
    n = numbers.A.shape[-1]
    reward = QuadraticReward(
        Q=numbers.C[:, :n, :n],
        R=numbers.C[:, n:, n:],
        N=numbers.C[:, :n, n:],
        q=numbers.g[:, :n],
        r=numbers.g[:, n:],
        const=numbers.const,
        final=(numbers.Qf, numbers.qf, numbers.constf),
    )
    prior = Flat() if numbers.prior is None else LinearNormal(*numbers.prior)
    options = {"offset": numbers.c, "noise": numbers.W, "horizon": len(numbers.A), "temperature": numbers.alpha}
    options |= {"initial": (numbers.m1, numbers.S1), "reward": reward, "action_prior": prior}
    return LinearGaussianModel(numbers.A, numbers.B, **options | changes)


def regulator(numbers):
    """The gains, offsets and Haa of the best policy with the dynamics held fixed, by a plain loop."""
    T, n, _ = numbers.sizes
    P, p = numbers.Qf, numbers.qf
    found = []
    for t in reversed(range(T)):
        F = np.concatenate([numbers.A[t], numbers.B[t]], 1)
        H = numbers.C[t] + F.T @ P @ F
        h = numbers.g[t] + F.T @ (P @ numbers.c[t] + p)
        if numbers.prior is not None:
            K0, k0, L = (part[t] for part in numbers.prior)
            lean = np.concatenate([-K0, np.eye(len(k0))], 1)
            inverse = numbers.alpha * np.linalg.inv(L)
            H = H + lean.T @ inverse @ lean
            h = h - lean.T @ inverse @ k0
        Haa, Has = H[n:, n:], H[n:, :n]
        K, k = -np.linalg.solve(Haa, Has), -np.linalg.solve(Haa, h[n:])
        P, p = H[:n, :n] + Has.T @ K, h[:n] + Has.T @ k
        found.append((K, k, Haa))
    return [np.stack(part) for part in zip(*found[::-1], strict=True)]
