"""What policies earn in the true world, by expectations and by rollouts; also where states are hidden."""

from cai.evaluation.batch_results import OutcomeBatch
from cai.evaluation.episodes import EpisodeOutcome, Estimate
from cai.evaluation.evaluate import Outcome, evaluate
from cai.evaluation.hidden_states import BeliefOutcome, RunRecord, evaluate_belief_policy, simulate
from cai.evaluation.programs import SampledOutcome

__all__ = [
    "BeliefOutcome",
    "EpisodeOutcome",
    "Estimate",
    "Outcome",
    "OutcomeBatch",
    "RunRecord",
    "SampledOutcome",
    "evaluate",
    "evaluate_belief_policy",
    "simulate",
]
