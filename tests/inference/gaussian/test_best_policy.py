"""Under fixed dynamics the messages' policy is the best linear-Gaussian one: a search over all of them ends there.

The bound that is searched is written out in `linear_policies`, step by step on moments, and knows nothing of messages.
"""

import pytest
import torch
from gaussian_oracle import as_problem, random_numbers
from linear_policies import bound

from cai.inference.gaussian.messages import backward


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
