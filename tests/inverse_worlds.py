"""Small worlds whose maximum of likelihood is known in closed form."""

import torch

from cai.inverse import Demonstrations
from cai.models import MDP, LinearReward, TrajectoryModel


def one_choice(taken, length=8, persons=None, weights=None):
    """(model, demonstrations): one state, two actions, the second pays w; demonstration n takes it `taken[n]` times."""
    mdp = MDP(torch.ones(1, 2, 1, dtype=torch.float64), [1.0])
    model = TrajectoryModel(mdp, LinearReward([[[0.0], [1.0]]], [0.0], names=["second"]), horizon=length)
    actions = [[1 if t < count else 0 for t in range(length)] for count in taken]
    states = [[0] * (length + 1) for _ in taken]
    people = None if persons is None else list(persons)
    return model, Demonstrations(states, actions, persons=people, weights=weights)
