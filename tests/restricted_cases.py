"""Restricted classes of policies and small models to fit them on."""

import numpy as np
from torch import nn

from cai.inference import StructuredVariational
from cai.inference.restricted.classes import ObservationPolicy, StationaryPolicy
from cai.inference.restricted.restricted import RestrictedVariational
from cai.models import MDP, TrajectoryModel


def answer(policy, model, **options):
    return RestrictedVariational(policy, **options).run(model)


def best(model):
    """The dynamic program's bound, which no class exceeds."""
    return StructuredVariational().run(model)


def noisy(model, seed=0, stationary=True):
    rows = np.random.default_rng(seed).dirichlet(np.ones(2), size=model.mdp.num_states)
    return ObservationPolicy(rows, stationary)


def aliased(model, number=2, stationary=True):
    return ObservationPolicy([s % number for s in range(model.mdp.num_states)], stationary)


CLASSES = {
    "stationary": lambda model: StationaryPolicy(),
    "aliased": aliased,
    "aliased over time": lambda model: aliased(model, stationary=False),
    "noisy": noisy,
    "noisy over time": lambda model: noisy(model, stationary=False),
    "module": lambda model: nn.Linear(model.mdp.num_states + 1, model.mdp.num_actions),
}


def corridor(temperature):
    """Two rooms that look alike: the way out is action 0 in one and action 1 in the other; being inside costs 1."""
    moves = np.zeros((3, 2, 3))
    moves[0, 0, 2] = moves[1, 1, 2] = moves[0, 1, 0] = moves[1, 0, 1] = moves[2, :, 2] = 1.0
    mdp = MDP(moves, [0.6, 0.4, 0.0], terminal=[2])
    return TrajectoryModel(mdp, [-1.0, -1.0, 0.0], 4, temperature, action_prior=[0.3, 0.7])
