"""What is asked: decision problems, reward factors and the trajectory model as a Pyro program (floor 1 of 3)."""

if __name__ != "cai.models":
    raise ImportError(
        f"this package was imported as {__name__!r}; import it as 'cai.models' (run 'pip install -e .' once), "
        "or every class in it would exist twice"
    )

from cai.models.common.simulator import Simulator, Transition
from cai.models.continuous.discretize import discretize
from cai.models.continuous.grid_function import GridFunction
from cai.models.continuous.linear_gaussian import Gaussian, LinearGaussianModel
from cai.models.continuous.model import ContinuousModel
from cai.models.continuous.priors import Flat, LinearNormal
from cai.models.continuous.quadratic import QuadraticReward
from cai.models.environments.collect import Transitions, collect
from cai.models.environments.making import environment, vector_environment
from cai.models.environments.registration import register_zoo
from cai.models.environments.world import EnvironmentModel, environment_model
from cai.models.processes.layout import GridLayout
from cai.models.processes.mdp import MDP
from cai.models.processes.observation import ObservationModel
from cai.models.processes.read_pomdp import read_pomdp
from cai.models.processes.read_prism import read_prism
from cai.models.programs.factor_graph import draw_factor_graph, factor_graph
from cai.models.programs.inspect import ProgramInfo, inspect_program
from cai.models.programs.interventions import condition, do
from cai.models.rewards.functions import reward_factor
from cai.models.rewards.goals import Goal, LinearReward, Waypoint
from cai.models.rewards.modules import ModuleReward
from cai.models.rewards.penalties import DistancePenalty, LogBarrier, VisitationPenalty
from cai.models.rewards.registry import available_rewards, build_reward
from cai.models.rewards.tables import (
    CallableReward,
    OutcomeReward,
    RewardFactor,
    SparseReward,
    StepCost,
    TableReward,
    TimeTableReward,
    as_reward,
)
from cai.models.trajectory.batch import ModelBatch
from cai.models.trajectory.lmdp import LMDP, compose_lmdps
from cai.models.trajectory.model import TrajectoryModel
from cai.models.trajectory.shaping import PotentialShaping, shaped
from cai.models.zoo.chains import chain, double_chain, river_swim
from cai.models.zoo.counted import count_model
from cai.models.zoo.grids import cliff, four_rooms, maze, windy
from cai.models.zoo.gridworld import bridge, gridworld
from cai.models.zoo.hidden import kitchen, kitchen_observations, tiger, tiger_observations
from cai.models.zoo.linear import SeenState, double_integrator, lqg, lqg_observations
from cai.models.zoo.operations import inventory, machine
from cai.models.zoo.plane import dubins, multi_goal
from cai.models.zoo.random_mdps import random_mdp
from cai.models.zoo.registry import available_models, build_model
from cai.models.zoo.risk import ladder, lottery
from cai.models.zoo.road_networks import road_network
from cai.models.zoo.roads import small_roads, three_paths
from cai.models.zoo.swing import cart_pole, pendulum
from cai.models.zoo.toy_text import from_gymnasium, gymnasium_model

__all__ = [
    "read_pomdp",
    "read_prism",
    "CallableReward",
    "ContinuousModel",
    "DistancePenalty",
    "EnvironmentModel",
    "Flat",
    "Gaussian",
    "Goal",
    "GridFunction",
    "GridLayout",
    "LMDP",
    "LinearGaussianModel",
    "LinearNormal",
    "LinearReward",
    "LogBarrier",
    "MDP",
    "ModelBatch",
    "ModuleReward",
    "ObservationModel",
    "OutcomeReward",
    "PotentialShaping",
    "ProgramInfo",
    "QuadraticReward",
    "RewardFactor",
    "Simulator",
    "SeenState",
    "SparseReward",
    "StepCost",
    "TableReward",
    "TimeTableReward",
    "TrajectoryModel",
    "Transition",
    "Transitions",
    "VisitationPenalty",
    "Waypoint",
    "as_reward",
    "available_models",
    "available_rewards",
    "bridge",
    "build_model",
    "build_reward",
    "cart_pole",
    "chain",
    "cliff",
    "collect",
    "compose_lmdps",
    "condition",
    "count_model",
    "discretize",
    "do",
    "double_chain",
    "double_integrator",
    "draw_factor_graph",
    "dubins",
    "environment",
    "environment_model",
    "factor_graph",
    "four_rooms",
    "from_gymnasium",
    "gridworld",
    "gymnasium_model",
    "inspect_program",
    "inventory",
    "kitchen",
    "kitchen_observations",
    "ladder",
    "lottery",
    "lqg",
    "lqg_observations",
    "machine",
    "maze",
    "multi_goal",
    "pendulum",
    "random_mdp",
    "reward_factor",
    "river_swim",
    "road_network",
    "shaped",
    "small_roads",
    "three_paths",
    "tiger",
    "tiger_observations",
    "vector_environment",
    "windy",
]

register_zoo()
