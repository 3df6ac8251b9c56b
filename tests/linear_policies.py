"""The bound of linear-Gaussian policies, written out on moments; nothing here knows of messages."""

import math

import torch


def bound(problem, gains, offsets, roots, discount=1.0):
    """Expected return / alpha - KL from the prior, for gains [T, m, n], offsets [T, m] and log-diagonal roots.

    The final reward is paid with the last step, to a chain that has not ended before.
    """
    mean, spread, alpha, total = problem.mean, problem.covariance, problem.temperature, 0.0
    for t in range(problem.horizon):
        K, k = gains[t], offsets[t]
        root = roots[t].tril(-1) + torch.diag(roots[t].diagonal().exp())
        act, cross = K @ mean + k, spread @ K.T
        noise = root @ root.T
        joint = torch.cat([torch.cat([spread, cross], 1), torch.cat([cross.T, K @ cross + noise], 1)])
        z = torch.cat([mean, act])
        C, g = problem.cost[t], problem.linear[t]
        step = -(z @ C @ z / 2 + (C * joint).sum() / 2 + g @ z + problem.constant[t]) / alpha
        step = step + roots[t].diagonal().sum() + len(k) / 2 * (1 + math.log(2 * math.pi))
        if problem.prior is not None:
            K0, k0, L = (part[t] for part in problem.prior)
            J = torch.cat([-K0, torch.eye(len(k), dtype=torch.float64)], 1)
            apart, weight = J @ z - k0, L.inverse()
            step = step - (apart @ weight @ apart + (weight * (J @ joint @ J.T)).sum()) / 2
            step = step - (torch.logdet(L) + len(k) * math.log(2 * math.pi)) / 2
        total = total + discount**t * step
        F = torch.cat([problem.A[t], problem.B[t]], 1)
        mean, spread = F @ z + problem.offset[t], F @ joint @ F.T + problem.noise[t]
    P, p, rho = problem.final
    last = (mean @ P @ mean / 2 + (P * spread).sum() / 2 + p @ mean + rho) / alpha
    return total - discount ** (problem.horizon - 1) * last
