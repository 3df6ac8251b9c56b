"""Reward factors: tables, functions, modules, goals, penalties, and their algebra."""

from cai.models.rewards.functions import CallableReward, reward_factor
from cai.models.rewards.goals import Goal, LinearReward, Waypoint
from cai.models.rewards.modules import ModuleReward
from cai.models.rewards.penalties import DistancePenalty, LogBarrier, VisitationPenalty
from cai.models.rewards.registry import available_rewards, build_reward
from cai.models.rewards.tables import (
    OutcomeReward,
    RewardFactor,
    SparseReward,
    StepCost,
    TableReward,
    TimeTableReward,
    as_reward,
)

__all__ = [
    "CallableReward",
    "DistancePenalty",
    "Goal",
    "LinearReward",
    "LogBarrier",
    "ModuleReward",
    "OutcomeReward",
    "RewardFactor",
    "SparseReward",
    "StepCost",
    "TableReward",
    "TimeTableReward",
    "VisitationPenalty",
    "Waypoint",
    "as_reward",
    "available_rewards",
    "build_reward",
    "reward_factor",
]
