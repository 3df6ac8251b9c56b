"""Studies of answers: comparisons, sweeps, explanations of rewards, and limits on visits."""

from cai.studies.comparison import Comparison, compare
from cai.studies.constraints import Limited, limit_entries
from cai.studies.explain import RewardExplanation, explain_reward
from cai.studies.explain_continuous import ContinuousExplanation
from cai.studies.rows import Row
from cai.studies.sweep import Sweep, sweep

__all__ = [
    "Comparison",
    "ContinuousExplanation",
    "Limited",
    "RewardExplanation",
    "Row",
    "Sweep",
    "compare",
    "explain_reward",
    "limit_entries",
    "sweep",
]
