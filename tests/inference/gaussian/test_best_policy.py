"""Under fixed dynamics the messages' policy is the best linear-Gaussian one: a search over all of them ends there.

The bound that is searched is written out here, step by step on moments, and knows nothing of messages.
"""

import math

import pytest
import torch
from gaussian_oracle import as_problem, random_numbers

from cai.inference.gaussian.messages import backward


def bound(problem, gains, offsets, roots):
    """Expected return / alpha - KL from the prior, for gains [T, m, n], offsets [T, m] and log-diagonal roots."""
    mean, spread, alpha, total = problem.mean, problem.covariance, problem.temperature, 0.0
    for t in range(problem.horizon):
        K, k = gains[t], offsets[t]
        root = roots[t].tril(-1) + torch.diag(roots[t].diagonal().exp())
        act, cross = K @ mean + k, spread @ K.T
        noise = root @ root.T
        joint = torch.cat([torch.cat([spread, cross], 1), torch.cat([cross.T, K @ cross + noise], 1)])
        z = torch.cat([mean, act])
        C, g = problem.cost[t], problem.linear[t]
        total = total - (z @ C @ z / 2 + (C * joint).sum() / 2 + g @ z + problem.constant[t]) / alpha
        total = total + roots[t].diagonal().sum() + len(k) / 2 * (1 + math.log(2 * math.pi))
        if problem.prior is not None:
            K0, k0, L = (part[t] for part in problem.prior)
            J = torch.cat([-K0, torch.eye(len(k), dtype=torch.float64)], 1)
            apart, weight = J @ z - k0, L.inverse()
            total = total - (apart @ weight @ apart + (weight * (J @ joint @ J.T)).sum()) / 2
            total = total - (torch.logdet(L) + len(k) * math.log(2 * math.pi)) / 2
        F = torch.cat([problem.A[t], problem.B[t]], 1)
        mean, spread = F @ z + problem.offset[t], F @ joint @ F.T + problem.noise[t]
    P, p, rho = problem.final
    return total - (mean @ P @ mean / 2 + (P * spread).sum() / 2 + p @ mean + rho) / alpha


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("seed", [4, 7])
def test_no_linear_gaussian_policy_has_a_higher_bound(seed, flat):
    numbers = random_numbers(seed, flat=flat, largest=(3, 2, 4))
    problem = as_problem(numbers)
    T, n, m = numbers.sizes
    parts = [torch.zeros(T, m, n), torch.zeros(T, m), torch.zeros(T, m, m)]
    parts = [part.double().requires_grad_() for part in parts]
    search = torch.optim.LBFGS(
        parts, max_iter=3000, tolerance_grad=1e-11, tolerance_change=0, line_search_fn="strong_wolfe", history_size=50
    )

    def loss():
        search.zero_grad()
        value = -bound(problem, *parts)
        value.backward()
        return value

    search.step(loss)
    messages = backward(problem, 0.0)
    best = float(messages.start / problem.temperature)
    found = float(bound(problem, *parts).detach())
    assert found == pytest.approx(best, rel=1e-11, abs=1e-11)
    assert found <= best + 1e-11 * max(1, abs(best))
    assert torch.allclose(parts[0].detach(), messages.gain, rtol=1e-4, atol=1e-4)
