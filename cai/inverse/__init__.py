"""Inverse problems: rewards, goals and their standard errors from demonstrations."""

from cai.inverse.adversarial.entry import airl, gail
from cai.inverse.adversarial.estimate import AdversarialEstimate
from cai.inverse.bayes import fit_bayes
from cai.inverse.bootstrap import Bootstrap, bootstrap
from cai.inverse.estimation.estimate import Estimate
from cai.inverse.estimation.hypotheses import HypothesisTest
from cai.inverse.estimation.status import FitError, FitStatus
from cai.inverse.fit import fit
from cai.inverse.predictions.baselines import action_model, baselines, cheapest, maximum_margin
from cai.inverse.predictions.destinations import destinations, remaining_flows
from cai.inverse.predictions.expected import expected_counts
from cai.inverse.predictions.goals import goals
from cai.inverse.predictions.label_bias import label_bias
from cai.inverse.predictions.pictures import plot_destinations, plot_flows, plot_reward
from cai.inverse.search.penalties import L1, L2
from cai.models.demonstrations.continuous import ContinuousDemonstrations
from cai.models.demonstrations.demonstrations import Demonstrations
from cai.models.demonstrations.route_network import RouteNetwork

__all__ = [
    "L1",
    "L2",
    "AdversarialEstimate",
    "Bootstrap",
    "ContinuousDemonstrations",
    "Demonstrations",
    "Estimate",
    "FitError",
    "FitStatus",
    "HypothesisTest",
    "RouteNetwork",
    "action_model",
    "airl",
    "baselines",
    "bootstrap",
    "cheapest",
    "destinations",
    "expected_counts",
    "fit",
    "fit_bayes",
    "gail",
    "goals",
    "label_bias",
    "maximum_margin",
    "plot_destinations",
    "plot_flows",
    "plot_reward",
    "remaining_flows",
]
