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
from cai.models.reward_factors import Goal, LinearReward
from cai.models.rewards import (
    CallableReward,
    OutcomeReward,
    RewardFactor,
    StepCost,
    TableReward,
    as_reward,
)
from cai.models.risk_problems import ladder, lottery
from cai.models.road_networks import road_network
from cai.models.road_problems import small_roads, three_paths
from cai.models.toy_text import from_gymnasium, gymnasium_model
from cai.models.trajectory import TrajectoryModel
from cai.models.zoo import available_models, build_model

__all__ = [
    "LMDP",
    "MDP",
    "ModelBatch",
    "CallableReward",
    "Goal",
    "GridLayout",
    "LinearReward",
    "ObservationModel",
    "OutcomeReward",
    "ProgramInfo",
    "RewardFactor",
    "StepCost",
    "TableReward",
    "TrajectoryModel",
    "as_reward",
    "available_models",
    "bridge",
    "build_model",
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
    "river_swim",
    "road_network",
    "small_roads",
    "three_paths",
    "tiger",
    "tiger_observations",
    "windy",
]
