"""Linear-Gaussian problems answered by one large Gaussian over a whole trajectory, in numpy, without any recursion.

A trajectory x = (s_1, .., s_{T+1}, a_1, .., a_T) is an affine function of independent standard normal numbers, so the
rewards are one quadratic function of these, and conditioning on optimality is one matrix inverse. Covariances may be
singular. With a flat prior the actions themselves take the place of their normal numbers, with precision zero.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from cai.inference.gaussian.problem import GaussianPrior, GaussianProblem, Quadratic


@dataclass
class Numbers:
    """A problem of one batch member as numpy arrays, each with a time axis of length T."""

    A: np.ndarray
    B: np.ndarray
    c: np.ndarray
    W: np.ndarray
    C: np.ndarray
    g: np.ndarray
    const: np.ndarray
    Qf: np.ndarray
    qf: np.ndarray
    constf: float
    m1: np.ndarray
    S1: np.ndarray
    alpha: float
    prior: tuple | None  # K0 [T, m, n], k0 [T, m], L [T, m, m]

    @property
    def sizes(self):
        return len(self.A), self.A.shape[-1], self.B.shape[-1]


def random_numbers(seed, *, flat=False, noisy=True, actions=True, largest=(6, 4, 15), singular=False):
    """A random problem with cross terms, affine parts and matrices that change with time; rewards are concave."""
    rng = np.random.default_rng(seed)
    n, m, T = (int(rng.integers(1, top + 1)) for top in largest)
    m = m if actions else 0

    def covariance(size, *lead):
        root = rng.normal(size=(*lead, size, size))
        if singular and size > 1:
            root[..., -1] = 0
        return root @ np.swapaxes(root, -1, -2) / size * math.exp(rng.normal())

    cost = covariance(n + m, T) + 0.1 * np.eye(n + m)
    return Numbers(
        A=np.eye(n) + rng.normal(size=(T, n, n)) * 0.4 / math.sqrt(n),
        B=rng.normal(size=(T, n, m)) / math.sqrt(max(m, 1)),
        c=rng.normal(size=(T, n)) * 0.3,
        W=covariance(n, T) * noisy,
        C=cost,
        g=rng.normal(size=(T, n + m)),
        const=rng.normal(size=T),
        Qf=covariance(n),
        qf=rng.normal(size=n),
        constf=float(rng.normal()),
        m1=rng.normal(size=n),
        S1=covariance(n) * noisy,
        alpha=math.exp(rng.uniform(-2, 2)),
        prior=None if flat else (rng.normal(size=(T, m, n)) * 0.3, rng.normal(size=(T, m)), _proper(covariance(m, T))),
    )


def _proper(covariance):
    return covariance + 0.05 * np.eye(covariance.shape[-1])


def as_problem(numbers, **changes):
    """The same problem as tensors."""
    x = {name: torch.as_tensor(value) for name, value in vars(numbers).items() if isinstance(value, np.ndarray)}
    prior = None if numbers.prior is None else GaussianPrior(*(torch.as_tensor(part) for part in numbers.prior))
    parts = {
        "A": x["A"],
        "B": x["B"],
        "offset": x["c"],
        "noise": x["W"],
        "cost": x["C"],
        "linear": x["g"],
        "constant": x["const"],
        "final": Quadratic(x["Qf"], x["qf"], torch.tensor(numbers.constf, dtype=torch.float64)),
        "mean": x["m1"],
        "covariance": x["S1"],
        "horizon": len(numbers.A),
        "temperature": torch.tensor(numbers.alpha, dtype=torch.float64),
        "prior": prior,
    }
    return GaussianProblem(**parts | changes)


def psd_root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(np.clip(values, 0, None))


@dataclass
class Whole:
    """A Gaussian over the trajectory x = (s_1 .. s_{T+1}, a_1 .. a_T)."""

    log_evidence: float
    mean: np.ndarray
    covariance: np.ndarray
    sizes: tuple

    def place(self, kind, t):
        """The coordinates of s_{t+1} or a_{t+1}."""
        T, n, m = self.sizes
        return slice(t * n, (t + 1) * n) if kind == "s" else slice((T + 1) * n + t * m, (T + 1) * n + (t + 1) * m)

    def moments(self, *sites):
        places = np.concatenate([np.arange(len(self.mean))[self.place(*site)] for site in sites])
        return self.mean[places], self.covariance[np.ix_(places, places)]


def unrolled(numbers, policy, start=None, dynamics=None):
    """The trajectory as an affine function (matrix, constant) of the numbers behind it.

    `policy` is (K [T, m, n], k [T, m], root [T, m, m]); a root of None makes the actions their own numbers (K is not
    read). `start` (m, root) and `dynamics` (A, B, c, root) replace the true ones.
    """
    T, n, m = numbers.sizes
    A, B, c, W = dynamics or (numbers.A, numbers.B, numbers.c, np.stack([psd_root(w) for w in numbers.W]))
    mean, root = start or (numbers.m1, psd_root(numbers.S1))
    size = n + T * (m + n)
    state, constant = np.zeros((n, size)), mean.copy()
    state[:, :n] = root
    states, actions, shifts, own = [state], [], [constant], []
    for t in range(T):
        at = n + t * (m + n)
        action = np.zeros((m, size))
        if policy is None:
            action[:, at : at + m] = np.eye(m)
            shift = np.zeros(m)
        else:
            K, k, spread = (part[t] for part in policy)
            action = K @ state
            action[:, at : at + m] += spread
            shift = K @ constant + k
        state, constant = A[t] @ state + B[t] @ action, A[t] @ constant + B[t] @ shift + c[t]
        state[:, at + m : at + m + n] += W[t]
        states.append(state)
        actions.append(action)
        shifts.append(constant)
        own.append(shift)
    return np.concatenate(states + actions), np.concatenate(shifts + own)


def total_cost(numbers):
    """(P, p, rho) of the cost -sum r over the trajectory x."""
    T, n, m = numbers.sizes
    size = (T + 1) * n + T * m
    P, p, rho = np.zeros((size, size)), np.zeros(size), numbers.constf + numbers.const.sum()
    for t in range(T):
        places = np.r_[t * n : (t + 1) * n, (T + 1) * n + t * m : (T + 1) * n + (t + 1) * m]
        P[np.ix_(places, places)] += numbers.C[t]
        p[places] += numbers.g[t]
    last = slice(T * n, (T + 1) * n)
    P[last, last] += numbers.Qf
    p[last] += numbers.qf
    return P, p, rho


def conditioned(numbers):
    """The exact posterior over whole trajectories, and log p(O)."""
    T, n, m = numbers.sizes
    if numbers.prior is None:
        matrix, shift = unrolled(numbers, None)
    else:
        K0, k0, L = numbers.prior
        matrix, shift = unrolled(numbers, (K0, k0, np.stack([np.linalg.cholesky(cov) for cov in L])))
    own = np.eye(matrix.shape[1])
    log_measure = 0.0
    if numbers.prior is None:
        for t in range(T):
            places = slice(n + t * (m + n), n + t * (m + n) + m)
            own[places, places] = 0
        log_measure = T * m / 2 * math.log(2 * math.pi)
    P, p, rho = (part / numbers.alpha for part in total_cost(numbers))
    precision = own + matrix.T @ P @ matrix
    slope = matrix.T @ (P @ shift + p)
    centre = -np.linalg.solve(precision, slope)
    sign, log_det = np.linalg.slogdet(precision)
    assert sign > 0
    at_zero = shift @ P @ shift / 2 + p @ shift + rho
    evidence = -at_zero - slope @ centre / 2 - log_det / 2 + log_measure
    return Whole(evidence, matrix @ centre + shift, matrix @ np.linalg.inv(precision) @ matrix.T, numbers.sizes)


def followed(numbers, K, k, covariance, start=None, dynamics=None):
    """The Gaussian of a policy in the true world, or in the one given, and its expected return."""
    roots = np.stack([psd_root(cov) for cov in covariance])
    matrix, mean = unrolled(numbers, (K, k, roots), start, dynamics)
    spread = matrix @ matrix.T
    P, p, rho = total_cost(numbers)
    value = -(np.sum(P * spread) / 2 + mean @ P @ mean / 2 + p @ mean + rho)
    return Whole(value, mean, spread, numbers.sizes)


def gaussian_divergence(mean, covariance, other_mean, other_covariance):
    """KL(N(mean, covariance) || N(other)), nats."""
    inverse, apart = np.linalg.inv(other_covariance), mean - other_mean
    logs = np.linalg.slogdet(other_covariance)[1] - np.linalg.slogdet(covariance)[1]
    return (np.trace(inverse @ covariance) - len(mean) + apart @ inverse @ apart + logs) / 2
