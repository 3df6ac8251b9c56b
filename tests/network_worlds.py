"""Small worlds for learners with networks, of which everything is known."""

import math

import gymnasium
import numpy as np
import torch

from cai.inference import SoftQLearning
from cai.inference.learning.networks.experience.interface import Interface
from cai.inference.learning.networks.updates.brain import Setting
from cai.inference.learning.networks.updates.temperature import Target as NoTarget
from cai.inference.tabular.policy_posterior import policy_posterior
from cai.models import MDP, TrajectoryModel, environment_model, vector_environment


def small_model(*, shift=0.0, horizon=math.inf, **options):
    """Three states of which the last is an end, three actions of which one is missing in state 1; chance everywhere.

    Args:
        shift: is added to what a live step pays.
        horizon: T.
        **options: of `TrajectoryModel`.
    """
    rng = np.random.default_rng(0)
    available = np.array([[True, True, True], [True, False, True], [True, True, True]])
    chances = rng.dirichlet(np.ones(3), size=(3, 3))
    chances[2] = [0.0, 0.0, 1.0]
    mdp = MDP(chances, [1.0, 0.0, 0.0], available=available, terminal=[2])
    rewards = np.where(np.arange(3)[:, None] < 2, rng.normal(size=(3, 3)) + shift, 0.0)
    return TrajectoryModel(mdp, rewards, horizon=horizon, **{"discount": 0.8, "temperature": 0.5, **options})


def deterministic_model(*, shift=0.0, horizon=math.inf, **options):
    """Four states of which the last is an end, three actions; nothing is left to chance."""
    following = [[[1], [2], [0]], [[2], [3], [0]], [[0], [1], [2]], [[3], [3], [3]]]
    mdp = MDP.from_successors(following, np.ones((4, 3, 1)), [1.0, 0.0, 0.0, 0.0], terminal=[3])
    rewards = np.where(np.arange(4)[:, None] < 3, np.random.default_rng(1).normal(size=(4, 3)) + shift, 0.0)
    return TrajectoryModel(mdp, rewards, horizon=horizon, **{"discount": 0.8, "temperature": 0.5, **options})


def world_of(model, **options):
    """A model that is seen as an environment, its states one-hot."""
    return environment_model(
        lambda num_envs: vector_environment(model, num_envs, **options),
        discount=model.discount,
        temperature=float(model.temperature),
    )


def learned_table(answer, model):
    """What a policy of networks amounts to on the model behind the environment, exactly."""
    number, actions = model.mdp.num_states, model.mdp.num_actions
    seen, policy = np.eye(number), answer.policy()
    logs = [policy.log_prob(np.full(number, a), seen, action_mask=model.mdp.available) for a in range(actions)]
    rows = torch.stack(logs, 1).double().exp()
    rows = rows / rows.sum(1, keepdim=True)
    return policy_posterior(
        SoftQLearning(), model, torch.where(model.nonterminal[:, None], rows, model.action_prior)[None]
    )


class Target(gymnasium.Env):
    """One step: the reward falls with the distance of the action from a place."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(np.array([0.0, -3.0], np.float32), np.array([4.0, 3.0], np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        reward = -((action[0] - 1.0) ** 2) - (action[1] - 0.5) ** 2
        return np.zeros(1, np.float32), float(reward), True, False, {}

    @staticmethod
    def evidence(temperature):
        """The bound of all policies, log E_p[exp(r / alpha)], a product of two integrals."""
        total = 0.0
        for low, high, place in ((0.0, 4.0, 1.0), (-3.0, 3.0, 0.5)):
            grid = torch.linspace(low, high, 20001, dtype=torch.float64)
            weights = torch.exp(-((grid - place) ** 2) / temperature) / (high - low)
            total += float(torch.trapezoid(weights, grid).log())
        return total


def _setting(interface, temperature, entropy_form=False):
    return Setting(interface, (16,), 1e-3, 0.8, temperature, NoTarget(), None, entropy_form, 0.02)


def numbered_setting(temperature=0.5):
    """Networks for three numbers that are observed, and three actions."""
    nothing = torch.zeros(0, dtype=torch.float64)
    return _setting(Interface((), 3, 3, nothing, nothing, ()), temperature)


def box_setting(entropy_form=False):
    """Networks for three numbers that are observed, and a box of two coordinates."""
    low, high = torch.tensor([[0.0, -3.0], [4.0, 3.0]], dtype=torch.float64)
    return _setting(Interface((), 3, 0, low, high, (2,)), 0.5, entropy_form)
