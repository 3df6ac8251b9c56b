"""What the tests of refused input share: a small valid problem, and how a refusal is read."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch

from cai.evaluation.evaluate import evaluate
from cai.models import (
    MDP,
    TrajectoryModel,
)
from cai.policies.policy import Policy

INF, NAN = math.inf, math.nan
S, A = 3, 2
TABLE = [[[1.0, 0.0, 0.0], [0.2, 0.8, 0.0]], [[1.0, 0.0, 0.0], [0.0, 0.3, 0.7]], [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]]
NEXT = [[[0, 1], [0, 1]], [[0, 1], [1, 2]], [[2, 2], [2, 2]]]
WEIGHTS = [[[1.0, 0.0], [0.2, 0.8]], [[1.0, 0.0], [0.3, 0.7]], [[1.0, 0.0], [1.0, 0.0]]]
START = [1.0, 0.0, 0.0]


def changed(table, *places):
    """A copy of a table with some entries changed: (index, value) each."""
    result = np.array(table, dtype=np.float64)
    for index, value in places:
        result[index] = value
    return result


def mdp(transitions=TABLE, initial=START, **options):
    return MDP(transitions, initial, **options)


def listed(next_states=NEXT, probabilities=WEIGHTS, initial=START, **options):
    return MDP.from_successors(next_states, probabilities, initial, **options)


def model(reward=-1.0, process=None, **options):
    """Walk from state 0 to the terminal state 2."""
    return TrajectoryModel(process or mdp(terminal=[2]), reward, **{"horizon": 3, **options})


def refuse(cases):
    """Parametrises over {id: (build, pattern)}, or (build, error, pattern) where the error is no ValueError."""
    values = [case if len(case) == 3 else (case[0], ValueError, case[1]) for case in cases.values()]
    return pytest.mark.parametrize(("build", "error", "pattern"), values, ids=list(cases))


def check(build, error, pattern):
    with pytest.raises(error, match=pattern):
        build()


def no_nan(value, where):
    """Looks into everything that an answer holds."""
    if isinstance(value, torch.Tensor):
        assert not value.isnan().any(), where
    elif isinstance(value, float):
        assert not math.isnan(value), where
    elif isinstance(value, Mapping):
        for key, part in value.items():
            no_nan(part, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for part in value:
            no_nan(part, where)


def holds_no_nan(posterior):
    for name in posterior.names():
        no_nan(getattr(posterior, name), name)
    if not hasattr(posterior, "action_probs"):  # an answer without tables
        return
    for t in range(posterior.action_probs.shape[0]):
        no_nan(posterior.dynamics(t), "dynamics")
        if posterior.has_outcomes:
            no_nan(posterior.luck_map(t), "luck_map")
    dataset = posterior.to_xarray()
    no_nan(dict(dataset.attrs), "to_xarray attributes")
    for name in dataset.data_vars:
        assert not np.isnan(dataset[name].values).any(), name


UNIFORM = np.full((3, S, A), 0.5)


def partly():
    return mdp(available=[[True, True], [False, True], [True, True]], terminal=[2])


def evaluated(table=UNIFORM, problem=None, **options):
    policy = table if isinstance(table, str) else Policy(table)
    return evaluate(policy, problem or model(), **{"num_rollouts": 10, **options})
