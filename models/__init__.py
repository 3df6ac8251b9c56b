"""What is asked: decision problems, reward factors and the trajectory model as a Pyro program (floor 1 of 3)."""

if __name__ != "cai.models":
    raise ImportError(
        f"this package was imported as {__name__!r}; import it as 'cai.models' (run 'pip install -e .' once), "
        "or every class in it would exist twice"
    )

from cai.models.batch import ModelBatch
from cai.models.factor_graph import draw_factor_graph, factor_graph
from cai.models.gridworld import bridge, gridworld
from cai.models.interventions import condition, do
from cai.models.layout import GridLayout
from cai.models.lmdp import LMDP, compose_lmdps
from cai.models.mdp import MDP
from cai.models.observation import ObservationModel
from cai.models.program import ProgramInfo, inspect_program
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
from cai.models.road_networks import road_network
from cai.models.shaping import PotentialShaping, shaped
from cai.models.toy_text import from_gymnasium, gymnasium_model
from cai.models.trajectory import TrajectoryModel
from cai.models.zoo import available_models, build_model, lottery

__all__ = [
    "LMDP",
    "MDP",
    "ModelBatch",
    "CallableReward",
    "DistancePenalty",
    "Goal",
    "GridLayout",
    "LinearReward",
    "LogBarrier",
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
    "compose_lmdps",
    "condition",
    "do",
    "draw_factor_graph",
    "factor_graph",
    "from_gymnasium",
    "gridworld",
    "gymnasium_model",
    "inspect_program",
    "lottery",
    "reward_factor",
    "road_network",
    "shaped",
]
