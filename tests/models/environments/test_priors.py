"""Action priors of one's own: distributions over the actions of each observation, or refused."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.distributions import Bernoulli, Categorical, Independent, Normal, Uniform

from cai.models import environment_model


class Shown(gymnasium.Env):
    """Shows 0, forever."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float64)

    def __init__(self, size):
        self.action_space = spaces.Box(-1.0, 3.0, (size,), np.float32) if size else spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1), {}


def normal(size, *, batch=True):
    return lambda seen: Normal(torch.zeros(len(seen), size) if batch else torch.zeros(size), 1.0)


def numbers(*shape):
    return lambda seen: Categorical(logits=torch.zeros(len(seen), *shape))


def uniform(validate):
    return lambda seen: Independent(Uniform(torch.zeros(len(seen), 1), 3.0, validate_args=validate), 1)


PRIORS = {  # in a box from -1 to 3, in one of two coordinates, and with three numbered actions
    "numbers beside each other": (
        normal(1),
        1,
        r"returned Normal with batch shape \[2, 1\] and event shape \[\].*Indep",
    ),
    "two of them": (normal(2), 2, r"expected \[2\] and \[2\] \(torch.distributions.Independent\(..., 1\) makes it so"),
    "one for all": (lambda seen: Independent(normal(1, batch=False)(seen), 1), 1, r"batch shape \[\] and event shape"),
    "numbered in a box": (numbers(3), 1, r"Categorical with batch shape \[2\] and event shape \[\] for 2 observations"),
    "half of the box": (uniform(False), 1, r"without density at \[.*narrow this by action_bounds"),
    "half of the box, checked": (uniform(True), 1, r"without density at \[.*narrow this by action_bounds"),
    "nan": (lambda seen: Independent(Normal(seen * np.nan, 1.0, validate_args=False), 1), 1, "without density at"),
    "a table": (lambda seen: torch.zeros(2, 1), 1, "returned a Tensor; expected a torch distribution"),
    "too many": (numbers(4), 0, r"Categorical with logits \[2, 4\]; expected Categorical with logits \[2, 3\]"),
    "a flag each": (lambda seen: Bernoulli(logits=torch.zeros(2, 3)), 0, r"Bernoulli with batch shape \[2, 3\]"),
    "a box in numbers": (lambda seen: Normal(torch.zeros(2), 1.0), 0, r"returned Normal; expected Categorical"),
}


@pytest.mark.parametrize("case", PRIORS)
def test_what_is_no_prior_is_refused(case):
    prior, size, message = PRIORS[case]
    with pytest.raises((TypeError, ValueError), match=message):
        environment_model(lambda: Shown(size), discount=0.9, temperature=1.0, action_prior=prior)
