"""What is asked: decision problems, reward factors and the trajectory model as a Pyro program (floor 1 of 3)."""

if __name__ != "cai.models":
    raise ImportError(
        f"this package was imported as {__name__!r}; import it as 'cai.models' (run 'pip install -e .' once), "
        "or every class in it would exist twice"
    )

from cai.models.batch import ModelBatch
from cai.models.chain_problems import chain, double_chain, river_swim
from cai.models.factor_graph import draw_factor_graph, factor_graph
from cai.models.grid_problems import cliff, four_rooms, maze, windy
from cai.models.gridworld import bridge, gridworld
from cai.models.hidden_problems import kitchen, kitchen_observations, tiger, tiger_observations
from cai.models.interventions import condition, do
from cai.models.layout import GridLayout
from cai.models.lmdp import LMDP, compose_lmdps
from cai.models.mdp import MDP
from cai.models.observation import ObservationModel
from cai.models.operations_problems import inventory, machine
from cai.models.program import ProgramInfo, inspect_program
from cai.models.random_problems import random_mdp
from cai.models.reward_factors import Goal, LinearReward, Waypoint
from cai.models.reward_functions import reward_factor
from cai.models.reward_modules import ModuleReward
from cai.models.reward_penalties import DistancePenalty, LogBarrier, VisitationPenalty
from cai.models.reward_plugins import available_rewards, build_reward
from cai.models.rewards import (
    CallableReward,
    OutcomeReward,
    RewardFactor,
    StepCost,
    TableReward,
    TimeTableReward,
    as_reward,
)
from cai.models.risk_problems import ladder, lottery
from cai.models.road_networks import road_network
from cai.models.road_problems import small_roads, three_paths
from cai.models.shaping import PotentialShaping, shaped
from cai.models.toy_text import from_gymnasium, gymnasium_model
from cai.models.trajectory import TrajectoryModel
from cai.models.zoo import available_models, build_model

__all__ = [
    "CallableReward",
    "DistancePenalty",
    "Goal",
    "GridLayout",
    "LMDP",
    "LinearReward",
    "LogBarrier",
    "MDP",
    "ModelBatch",
    "ModuleReward",
    "ObservationModel",
    "OutcomeReward",
    "PotentialShaping",
    "ProgramInfo",
    "RewardFactor",
    "StepCost",
    "TableReward",
    "TimeTableReward",
    "TrajectoryModel",
    "VisitationPenalty",
    "Waypoint",
    "as_reward",
    "available_models",
    "available_rewards",
    "bridge",
    "build_model",
    "build_reward",
    "chain",
    "cliff",
    "compose_lmdps",
    "condition",
    "do",
    "double_chain",
    "draw_factor_graph",
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
    "machine",
    "maze",
    "random_mdp",
    "reward_factor",
    "river_swim",
    "road_network",
    "shaped",
    "small_roads",
    "three_paths",
    "tiger",
    "tiger_observations",
    "windy",
]
