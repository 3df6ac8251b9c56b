"""Small continuous worlds for policies that are fitted to trajectories, and quick options for such fits."""

import pyro.distributions as dist
import torch
from torch import nn

from cai.models import ContinuousModel, LinearNormal

QUICK = {"max_iterations": 3, "num_samples": 6, "num_eval_samples": 50, "throw": False}
SMALL = "hidden_sizes=[4]"
NAMES = {
    "tanh-gaussian": f"tanh-gaussian(low=-3,high=[3,4],{SMALL})",
    "mixture": f"mixture(components=2,{SMALL})",
    "flow": f"flow(bins=3,{SMALL})",
}


def box(state, t):
    """Uniform on [-1, 1] x [-2, 0.5]."""
    low, high = (torch.tensor(side).double().expand(*state.shape[:-1], 2) for side in ([-1.0, -2.0], [1.0, 0.5]))
    return dist.Uniform(low, high, validate_args=False).to_event(1)


def walk(noise=0.3, **changes):
    """A point in the plane that moves by its action, and is to come near (1, 1)."""

    def move(s, a, t):
        mean = 0.9 * s + a
        return dist.Normal(mean, noise).to_event(1) if noise else mean

    parts = {
        "initial": dist.Normal(torch.zeros(2).double(), 0.5).to_event(1),
        "dynamics": move,
        "reward": lambda s, a, t: -(s - 1).square().sum(-1) - 0.1 * a.square().sum(-1),
        "horizon": 3,
        "action_prior": LinearNormal(L=torch.eye(2).double()),
        "final_reward": lambda s: -(s - 1).square().sum(-1),
        "temperature": 2.0,
    }
    return ContinuousModel(**parts | changes)


def jumpy(**changes):
    """The same with steps of one of two sizes, through which no gradient passes."""

    def move(s, a, t):
        steps = dist.Normal(torch.stack([s + a, s + 2 * a], -2), 0.1).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(torch.ones(*s.shape[:-1], 2).double()), steps)

    return walk(dynamics=move, **changes)


class Law(nn.Module):
    """A module that returns a distribution of actions."""

    def __init__(self):
        super().__init__()
        self.mean, self.log_width = nn.Linear(2, 2), nn.Parameter(torch.zeros(2))

    def forward(self, states):
        return dist.Normal(self.mean(states), self.log_width.exp()).to_event(1)


class TimedLaw(Law):
    """The same, with the time in sight."""

    def forward(self, states, t):
        return dist.Normal(self.mean(states) * (1 + t), self.log_width.exp()).to_event(1)
